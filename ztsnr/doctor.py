"""Says what a checkpoint is and how other programs interpret it: python -m ztsnr.doctor FILE"""

from pathlib import Path

from omegaconf import DictConfig

from ztsnr.config.command import command


@command("doctor", positional="file", text_keys=("file",))
def main(composed: DictConfig) -> None:
    from ztsnr.formats.diagnosis import diagnose, print_diagnosis

    print_diagnosis(diagnose(Path(composed.file)))


if __name__ == "__main__":
    main()
