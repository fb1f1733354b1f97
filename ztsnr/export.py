"""Writes a checkpoint as other programs read it: python -m ztsnr.export checkpoint=FILE output=model.safetensors"""

from omegaconf import DictConfig

from ztsnr.config.command import command


@command("export", positional="checkpoint", text_keys=("checkpoint", "output", "pretrained"))
def main(composed: DictConfig) -> None:
    from ztsnr.formats.diagnosis import diagnose, print_diagnosis
    from ztsnr.models.export_checkpoint import export_checkpoint

    output = export_checkpoint(
        composed.checkpoint,
        composed.output,
        format=composed.format,
        weights=composed.weights,
        dtype=composed.dtype,
        pretrained=composed.pretrained,
    )
    print(output)
    print_diagnosis(diagnose(output))


if __name__ == "__main__":
    main()
