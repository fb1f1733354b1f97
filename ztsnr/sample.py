"""Draws a grid from a checkpoint alone: python -m ztsnr.sample checkpoint=runs/.../final.safetensors"""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ztsnr import check
from ztsnr.cli import command
from ztsnr.errors import CheckpointError, ConfigError
from ztsnr.registry import build, build_from_file


@command("sample")
def main(composed: DictConfig) -> None:
    import torch

    from ztsnr.evaluation.samples import SampleGrid, to_picture

    sampler = build(composed.sampler)
    settings = {name: composed[name] for name in ("steps", "rescale", "columns", "seed")}
    grid = SampleGrid(sampler=sampler, guidances=[composed.guidance], **settings)
    output = Path(str(composed.output))
    if not output.parent.is_dir() or output.suffix.lower() not in (".png", ".webp", ".jpg", ".jpeg"):
        raise ConfigError(f"output must be a .png, .webp or .jpg file in an existing folder, got {composed.output!r}")

    objective, network, config = load(composed.checkpoint, composed.weights)
    try:
        data = {"shape": tuple(config["data"]["shape"]), "classes": int(config["data"]["classes"])}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{composed.checkpoint} was not trained on labelled pictures: no {error!r}") from error
    classes = OmegaConf.to_object(composed).get("classes") or list(range(data["classes"]))
    for number in classes:
        check.one_of("classes", number, range(data["classes"]))
    with torch.inference_mode():
        drawn = grid.draw(objective, network, data["shape"], torch.tensor(classes), data["classes"], composed.guidance)
    to_picture(drawn, composed.columns).save(output)
    print(output)


def load(checkpoint: str | Path, weights: str = "best", pretrained: str | None = None):
    """A checkpoint's objective, its network in eval mode on the best device, and its config.

    weights: "raw", "ema", or "best", which is ema where the file has one. `pretrained`: where the weights that were
    not trained are, if not where training had them. Raises CheckpointError.
    """
    import torch

    from ztsnr.objective import Objective
    from ztsnr.training.checkpoint import read_checkpoint

    check.one_of("weights", weights, ("best", "raw", "ema"))
    read = read_checkpoint(checkpoint)
    try:
        nodes = {name: read.config[name] for name in ("schedule", "target", "weighting", "distance", "model")}
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{read.path} does not say how it was made: {error!r} in its config") from error
    if pretrained is not None:
        nodes["model"] = nodes["model"] | {"pretrained": pretrained}
    if "start" in nodes["model"].get("train", {}):  # which the weights have left behind
        nodes["model"] = nodes["model"] | {"train": nodes["model"]["train"] | {"start": None}}
    parts = {name: build_from_file(node, read.path) for name, node in nodes.items()}
    network = parts.pop("model")
    read.load_into(network, ("ema" if "ema" in read.names else "raw") if weights == "best" else weights)
    objective = Objective(**parts, normalise=False)
    if objective.learned:
        read.load_into(objective.learned, "objective")
    network.requires_grad_(False).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return objective, network, read.config


if __name__ == "__main__":
    main()
