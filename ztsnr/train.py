"""Trains a network on an objective, and records the run: python -m ztsnr.train schedule=ztsnr loss=vpred"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ztsnr.cli import command
from ztsnr.registry import build

PARTS = ("data", "lr_schedule", "validation", "samples", "trainer", "optimizer")
TAGS = ("schedule", "loss", "target", "weighting", "optimizer", "model", "data")


@command("train")
def main(composed: DictConfig) -> float:
    """Returns the validation score, which sweeps rank and optimise."""
    began = time.perf_counter()
    objective, tracker = build(composed.objective), build(composed.tracking)
    tracker.check()
    run = {name: build(composed[name]) for name in PARTS}  # all that is cheap: bad values are refused before a model

    import torch
    from accelerate import PartialState

    from ztsnr.training.monitor import RunMonitor, make_console
    from ztsnr.training.optim import check_optimizer
    from ztsnr.training.record import flatten, science
    from ztsnr.training.tracking import NoTracker, code_version

    check_optimizer(run["optimizer"])
    trainer = run.pop("trainer")
    console = make_console()
    if not PartialState().is_main_process:
        tracker, console.quiet = NoTracker(), True

    choices = {name: str(HydraConfig.get().runtime.choices[name]) for name in TAGS}
    config = science(OmegaConf.to_container(composed))
    title = f"{choices['schedule']} {choices['loss']} seed {composed.seed}"
    told = ("target", "weighting", "model", "data", "optimizer")
    console.print(f"[bold]{title}[/]  " + "  ".join(f"{name}={choices[name]}" for name in told), highlight=False)

    torch.manual_seed(composed.seed)
    network = build(composed.model)
    len(run["data"].train)  # loads it, so that the record is opened only for what can be trained
    with recorded(tracker, title, flatten(config), choices | code_version()):
        with RunMonitor(tracker, console, trainer.steps, trainer.batch_size, trainer.log_every) as monitor:
            trained = trainer.fit(**run, objective=objective, network=network, monitor=monitor)
        if not console.quiet:
            folder = Path(HydraConfig.get().runtime.output_dir)
            keep(trained, objective, config, title, folder, tracker)
    if not console.quiet:
        print(f"score {trained.score:.4f}")
        console.print(f"{time.perf_counter() - began:.0f} s  {folder / 'final.safetensors'}", highlight=False)
        console.print(f"draw    python -m ztsnr.sample checkpoint={folder / 'final.safetensors'}", highlight=False)
        if tracker.how_to_open():
            console.print(f"compare {tracker.how_to_open()}", highlight=False)
    return trained.score


@contextmanager
def recorded(tracker, name: str, params: Mapping, tags: Mapping) -> Iterator[None]:
    """The record of a run: opened, and closed with what became of it."""
    tracker.start(name, params, tags)
    try:
        yield
    except BaseException as error:
        killed = isinstance(error, KeyboardInterrupt)
        tracker.finish("KILLED" if killed else "FAILED", f"{type(error).__name__}: {error}")
        raise
    tracker.finish("FINISHED")


def keep(trained, objective, config: Mapping, title: str, folder: Path, tracker) -> None:
    """Writes what a run leaves into its folder, and a copy of what a browser shows to the tracker."""
    from ztsnr.evaluation.plots import objective_figure, validation_figure
    from ztsnr.training.checkpoint import save_checkpoint

    weights = folder / "final.safetensors"
    save_checkpoint(weights, trained.networks, config, trained.step, trained.score)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    objective_figure(objective, title).savefig(folder / "objective.png", dpi=150)
    validation_figure(trained.errors, f"{title}: score {trained.score:.4f}").savefig(folder / "validation.png", dpi=150)
    for path in (folder / "objective.png", folder / "validation.png", folder / "config.yaml", weights):
        tracker.file(path)


if __name__ == "__main__":
    main()
