"""Delivers the records of runs that wait in a folder or below it: python -m ztsnr.sync runs [uri=http://...]"""

from pathlib import Path

from omegaconf import DictConfig

from ztsnr.config.command import command


@command("sync", positional="run", text_keys=("run", "uri"))
def main(composed: DictConfig) -> None:
    from ztsnr.tracking.sync import deliver_all

    deliver_all(Path(composed.run), composed.uri)


if __name__ == "__main__":
    main()
