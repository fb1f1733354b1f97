"""Says what a checkpoint is and how other programs interpret it: python -m ztsnr.doctor FILE"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from ztsnr.config.command import command


def main() -> None:
    sys.argv[1:] = [word if "=" in word or word.startswith("-") else f"file={word}" for word in sys.argv[1:]]
    doctor()


@command("doctor")
def doctor(composed: DictConfig) -> None:
    from ztsnr.formats.diagnosis import diagnose, print_diagnosis

    print_diagnosis(diagnose(Path(str(composed.file))))


if __name__ == "__main__":
    main()
