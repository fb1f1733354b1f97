"""A trained model from its file: final.safetensors of a run, or what ztsnr.ema wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ztsnr.config.registry import build_from_file
from ztsnr.core import checks
from ztsnr.core.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

    from ztsnr.checkpoints.weights import Checkpoint
    from ztsnr.core.objective import Objective

NEEDED = ("schedule", "target", "weighting", "distance", "model")
"""Groups of the recorded config without which no model can be built."""


class LoadedModel(NamedTuple):
    """Unpacks into its three fields: objective, network, facts = load_model(path)."""

    objective: "Objective"
    network: "nn.Module"
    """In eval mode, frozen, on the best device."""
    facts: "Checkpoint"
    """What the file says of itself: config, step, score, statistics of latents."""


def load_model(
    path: str | Path, weights: str = "best", pretrained: str | None = None, base: str | None = None
) -> LoadedModel:
    """Builds what a checkpoint describes and fills it with the checkpoint's weights.

    weights: "raw", "ema", or "best", which is ema where the file has one.
    pretrained: where the weights that were not trained are; None is where training had them.
    base: the type of the weights below a LoRA; None is that of training.
    Raises CheckpointError for a file that is none of ours, broken, or names classes outside the registry.
    """
    import torch

    from ztsnr.checkpoints.weights import read_checkpoint
    from ztsnr.core.objective import Objective

    checks.one_of("weights", weights, ("best", "raw", "ema"))
    checkpoint = read_checkpoint(path)
    try:
        nodes = {name: checkpoint.config[name] for name in NEEDED}
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{checkpoint.path} has no usable config in its metadata: {error!r}") from error
    if pretrained is not None:
        nodes["model"] = nodes["model"] | {"pretrained": pretrained}
    nodes["model"] = without_lora_start(nodes["model"], base)
    parts = {name: build_from_file(node, checkpoint.path, name) for name, node in nodes.items()}

    network = parts.pop("model")
    if weights == "best":
        weights = "ema" if "ema" in checkpoint.names else "raw"
    checkpoint.load_into(network, weights)
    objective = Objective(**parts, normalise_weight=False)
    if objective.learned:
        checkpoint.load_into(objective.learned, "objective")
    network.requires_grad_(False).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return LoadedModel(objective, network, checkpoint)


def without_lora_start(model: Mapping, base: str | None) -> dict:
    """A model's config whose LoRAs do not load what they started from; `base` None keeps their type of weights."""
    changed = dict(model)
    for key in ("train", "train_text"):
        lora = model.get(key) or {}
        if "base" in lora:
            changed[key] = lora | {"start": None, "base": base or lora["base"]}
    return changed
