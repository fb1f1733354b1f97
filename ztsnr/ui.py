"""Opens the record of runs in MLflow's UI: python -m ztsnr.ui [port=5000] [sweep=ID]"""

from omegaconf import DictConfig

from ztsnr.config.command import command
from ztsnr.config.registry import build


@command("ui", text_keys=("sweep",))
def main(composed: DictConfig) -> None:
    from ztsnr.tracking.server import show_runs

    show_runs(build(composed, "tracking"), composed.port, composed.sweep)


if __name__ == "__main__":
    main()
