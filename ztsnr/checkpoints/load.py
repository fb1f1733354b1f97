"""Loads a trained model from its file: a run's final.safetensors, or one that ztsnr.ema wrote."""

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
"""The groups of the recorded config that a model is built from."""


class LoadedModel(NamedTuple):
    """Unpacks into its three fields: objective, network, facts = load_model(path)."""

    objective: "Objective"
    network: "nn.Module"
    """In eval mode, frozen, on the best device."""
    facts: "Checkpoint"
    """The file's metadata: config, step, score, statistics of latents."""


def load_model(
    path: str | Path, weights: str = "best", pretrained: str | None = None, base: str | None = None
) -> LoadedModel:
    """Builds the model that a checkpoint describes, with the checkpoint's weights.

    weights: "raw", "ema", or "best", which means ema if the file has it.
    pretrained: the path of the pretrained weights; None: the path that training used.
    base: the type of the weights below a LoRA; None: the type that training used.
    Raises CheckpointError for a file that ztsnr did not write, that is broken, or that names unregistered classes.
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
    """A model's config whose LoRAs do not load the file that training started from.

    base: the type of the weights below a LoRA; None keeps it.
    """
    changed = dict(model)
    for key in ("train", "train_text"):
        lora = model.get(key) or {}
        if "base" in lora:
            changed[key] = lora | {"start": None, "base": base or lora["base"]}
    return changed
