"""The export command: converts a checkpoint to a file that other programs read."""

from pathlib import Path
from typing import cast

from ztsnr.checkpoints.load import load_model
from ztsnr.checkpoints.weights import read_checkpoint
from ztsnr.config.outputs import new_folder, output_file
from ztsnr.core import checks
from ztsnr.core.errors import ConfigError
from ztsnr.models.exporter import EXPORT_DTYPES, FORMATS, Exporter
from ztsnr.models.sdxl import PretrainedUNet


def export_checkpoint(
    path: str | Path, output: str | Path, *, format: str, weights: str, dtype: str, pretrained: str | None
) -> Path:
    """Writes a checkpoint to `output`, a new folder for format="diffusers", else a file; returns its path.

    format: one of FORMATS. weights: "best", "raw" or "ema". dtype: one of EXPORT_DTYPES. pretrained: location of the
    other parts; None uses the location from training. Raises ConfigError and CheckpointError.
    """
    checks.one_of("format", format, FORMATS)
    checks.one_of("dtype", dtype, EXPORT_DTYPES)
    output_path = new_folder(output) if format == "diffusers" else output_file(output, (".safetensors",))
    checkpoint = read_checkpoint(path)
    config = checkpoint.config
    if "pretrained" not in config.get("model", {}):
        raise ConfigError(f"{path} cannot be exported: other programs know only model=sdxl and model=sd15")
    if pretrained is not None:
        config = config | {"model": config["model"] | {"pretrained": pretrained}}

    objective, network, _ = load_model(path, weights, pretrained, base="float32")
    trained = cast("PretrainedUNet", network.cpu())
    Exporter(trained, objective, config, checkpoint.facts.get("latents"), dtype).write(format, output_path)
    return output_path
