"""Writes a checkpoint as other programs read it: python -m ztsnr.export checkpoint=FILE output=model.safetensors"""

from pathlib import Path

from omegaconf import DictConfig

from ztsnr.config.command import command
from ztsnr.core import checks
from ztsnr.core.errors import ConfigError


@command("export")
def main(composed: DictConfig) -> None:
    from ztsnr.checkpoints.load import load_model
    from ztsnr.checkpoints.weights import read_checkpoint
    from ztsnr.formats.diagnosis import diagnose, print_diagnosis
    from ztsnr.models.exporter import DTYPES, FORMATS, Export

    checks.one_of("format", composed.format, FORMATS)
    checks.one_of("dtype", composed.dtype, DTYPES)
    output = checked_output(str(composed.output), composed.format)
    read = read_checkpoint(composed.checkpoint)
    model = read.config.get("model", {})
    if "pretrained" not in model:
        raise ConfigError(f"{composed.checkpoint} is of a network that no other program knows. Only sdxl and sd15 are")
    if composed.pretrained is not None:
        model["pretrained"] = composed.pretrained
    objective, network, _ = load_model(composed.checkpoint, composed.weights, composed.pretrained, base="float32")
    export = Export(network.cpu(), objective, read.config, read.facts.get("latents"), composed.dtype)
    export.write(composed.format, output)
    print(output)
    print_diagnosis(diagnose(output))


def checked_output(output: str, format: str) -> Path:
    path = Path(output)
    wanted = "" if format == "diffusers" else ".safetensors"
    if (path.suffix != wanted and wanted) or not path.parent.is_dir():
        kind = "a .safetensors file" if wanted else "a folder's name"
        raise ConfigError(f"output must be {kind} in an existing folder for format={format}, got {output!r}")
    if path.exists() and not wanted:
        raise ConfigError(f"output={output} is there already. Give the name of a new folder")
    return path


if __name__ == "__main__":
    main()
