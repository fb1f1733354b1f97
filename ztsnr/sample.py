"""Draws a grid from a checkpoint: python -m ztsnr.sample checkpoint=runs/.../final.safetensors

Of classes it needs the checkpoint alone, of prompts also the pretrained model that was trained on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from ztsnr.config.command import command
from ztsnr.config.registry import build
from ztsnr.core import checks
from ztsnr.core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from ztsnr.checkpoints.weights import Checkpoint

OF_CLASSES, OF_PROMPTS = ("classes",), ("prompts", "file", "negative", "size", "pretrained")
"""Keys that mean something of networks of one kind alone."""


@command("sample")
def main(composed: DictConfig) -> None:
    from ztsnr.checkpoints.weights import read_checkpoint
    from ztsnr.evaluation.samples import to_picture

    output = Path(str(composed.output))
    if not output.parent.is_dir() or output.suffix.lower() not in (".png", ".webp", ".jpg", ".jpeg"):
        raise ConfigError(f"output must be a .png, .webp or .jpg file in an existing folder, got {composed.output!r}")
    read, given = read_checkpoint(composed.checkpoint), OmegaConf.to_object(composed)
    told = "pretrained" in read.config.get("model", {})
    for name in OF_CLASSES if told else OF_PROMPTS:
        if given[name] is not None:
            kind, remedy = ("prompts", "prompts=[...] or file=FILE") if told else ("classes", "classes=[...]")
            raise ConfigError(f"{name} is not for {composed.checkpoint}, whose network knows {kind}. Use {remedy}")
    own = given["of_prompts" if told else "of_classes"]
    settings = {name: value if given[name] is None else given[name] for name, value in own.items()}
    settings |= {"sampler": build(composed, "sampler"), "seed": composed.seed}
    settings["guidances"] = [settings.pop("guidance")]
    drawn = (of_prompts if told else of_classes)(given, read, settings)
    to_picture(drawn, settings["columns"]).save(output)
    print(output)


def of_classes(given: Mapping, read: "Checkpoint", settings: dict) -> "Tensor":
    """(classes * columns, C, H, W) in [-1, 1]."""
    import torch

    from ztsnr.checkpoints.load import load_model
    from ztsnr.devices.memory import telling_what_needs_less
    from ztsnr.evaluation.samples import SampleGrid

    grid = SampleGrid(**settings)
    objective, network, checkpoint = load_model(read.path, given["weights"])
    try:
        shape, count = tuple(checkpoint.config["data"]["shape"]), int(checkpoint.config["data"]["classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{read.path} was not trained on labelled pictures: no {error!r}") from error
    classes = given["classes"] or list(range(count))
    for number in classes:
        checks.one_of("classes", number, range(count))
    with telling_what_needs_less("fewer classes or columns"), torch.inference_mode():
        return grid.draw(objective, network, shape, torch.tensor(classes), count, *settings["guidances"])


def of_prompts(given: Mapping, read: "Checkpoint", settings: dict) -> "Tensor":
    """(prompts * columns, 3, H, W) in [-1, 1]."""
    from dataclasses import replace

    import torch

    from ztsnr.checkpoints.load import load_model
    from ztsnr.devices.memory import telling_what_needs_less
    from ztsnr.evaluation.prompts import Prompts

    if (given["prompts"] is None) == (given["file"] is None):
        raise ConfigError("prompts=[...] or file=FILE must be given, and not both")
    if "latents" not in read.facts:
        raise CheckpointError(f"{read.path} does not say of which latents it is: it has no ztsnr.facts of them")
    settings |= {"prompts": given["prompts"], "file": given["file"], "negative": given["negative"] or ""}
    settings["pretrained"] = given["pretrained"] or read.config["model"]["pretrained"]
    prompts = Prompts(**settings, size=given["size"] or [8, 8])  # bad values are refused before a model
    objective, network, _ = load_model(read.path, given["weights"], given["pretrained"])
    if given["size"] is None:
        prompts = replace(prompts, size=[8 * network.unet.config.sample_size] * 2)
    with telling_what_needs_less("fewer columns or a smaller size"), torch.inference_mode():
        return prompts.draw(objective, network, read.facts["latents"], *settings["guidances"])


if __name__ == "__main__":
    main()
