"""Delivers what waits of the records below a folder: python -m ztsnr.sync runs [uri=http://...]"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from ztsnr.config.command import command, quoted
from ztsnr.core.errors import TrackingError


def main() -> None:
    sys.argv[1:] = [f"run={quoted(word)}" if _is_folder(word) else word for word in sys.argv[1:]]
    sync()


def _is_folder(word: str) -> bool:
    return not word.startswith("-") and "=" not in word


@command("sync")
def sync(composed: DictConfig) -> None:
    from ztsnr.tracking.store import send

    folder = Path(str(composed.run))
    spools = sorted({file.parent for file in folder.rglob("events.jsonl")})
    if not spools:
        raise TrackingError(f"run={folder} holds no record: no tracking/events.jsonl lies in it or below it")
    failed = []
    for spool in spools:
        try:
            print(f"{spool}: {send(spool, composed.uri)}", flush=True)
        except TrackingError as error:
            failed.append(str(error))
    if failed:
        raise TrackingError("\n".join(failed))


if __name__ == "__main__":
    main()
