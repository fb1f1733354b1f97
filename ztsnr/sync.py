"""Delivers the records of runs that wait in a folder or below it: python -m ztsnr.sync runs [uri=http://...]"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from ztsnr.config.command import command, quoted


def main() -> None:
    sys.argv[1:] = [f"run={quoted(word)}" if _is_folder(word) else word for word in sys.argv[1:]]
    sync()


def _is_folder(word: str) -> bool:
    return not word.startswith("-") and "=" not in word


@command("sync")
def sync(composed: DictConfig) -> None:
    from ztsnr.tracking.sync import deliver_all

    deliver_all(Path(str(composed.run)), composed.uri)


if __name__ == "__main__":
    main()
