"""Writes a checkpoint as other programs read it: python -m ztsnr.export checkpoint=FILE output=model.safetensors"""

from omegaconf import DictConfig

from ztsnr.config.command import command
from ztsnr.config.outputs import new_folder, output_file
from ztsnr.core import checks
from ztsnr.core.errors import ConfigError


@command("export", text_keys=("checkpoint", "output", "pretrained"))
def main(composed: DictConfig) -> None:
    from ztsnr.checkpoints.load import load_model
    from ztsnr.checkpoints.weights import read_checkpoint
    from ztsnr.formats.diagnosis import diagnose, print_diagnosis
    from ztsnr.models.exporter import DTYPES, FORMATS, Export

    checks.one_of("format", composed.format, FORMATS)
    checks.one_of("dtype", composed.dtype, DTYPES)
    if composed.format == "diffusers":
        output = new_folder(composed.output)
    else:
        output = output_file(composed.output, (".safetensors",))
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


if __name__ == "__main__":
    main()
