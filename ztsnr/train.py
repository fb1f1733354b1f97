"""Trains a network on an objective, and records the run: python -m ztsnr.train schedule=ztsnr loss=vpred"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ztsnr.cli import command
from ztsnr.errors import TrackingError
from ztsnr.record import flatten, science
from ztsnr.registry import build
from ztsnr.sweep import attempt, digest, name_of, sweeping

if TYPE_CHECKING:
    from ztsnr.objective import Objective
    from ztsnr.training.tracking import Tracker
    from ztsnr.training.trainer import Trained

PARTS = ("data", "lr_schedule", "validation", "samples", "trainer", "optimizer")
TOLD = ("target", "weighting", "model", "data", "optimizer")
TAGS = ("schedule", "loss", *TOLD)


@command("train")
def main(composed: DictConfig) -> float:
    """Returns the validation score, which sweeps rank and optimise; nan where a run of a sweep has none."""
    tracker, config = build(composed.tracking), digest(science(composed))
    tags = choices(TAGS) | {"ztsnr.role": "run", "ztsnr.config": config}
    if sweep := sweeping():
        title, tags = name_of(sweep), tags | {"ztsnr.sweep": sweep["id"]}
        return attempt(lambda: run(composed, tracker, title, tags), title, config, tracker, tags)
    return run(composed, tracker, f"{tags['schedule']} {tags['loss']} seed {composed.seed}", tags)


def run(composed: DictConfig, tracker: "Tracker", title: str, tags: dict[str, str]) -> float:
    began = time.perf_counter()
    objective = build(composed.objective)
    tracker.check()
    parts = {name: build(composed[name]) for name in PARTS}  # all that is cheap: bad values are refused before a model

    import torch

    from ztsnr.training.loop import join_processes
    from ztsnr.training.monitor import RunMonitor, make_console
    from ztsnr.training.optim import check_optimizer
    from ztsnr.training.tracking import NoTracker, code_version

    trainer, console, state = parts.pop("trainer"), make_console(), join_processes()
    check_optimizer(parts["optimizer"], trainer.weights, trainer.groups)
    if not state.is_main_process:
        tracker, console.quiet = NoTracker(), True
    told = "  ".join(f"{name}={choice}" for name, choice in choices(TOLD).items())
    console.print(f"[bold]{title}[/]  {told}", highlight=False)

    torch.manual_seed(composed.seed)
    network = build(composed.model)
    len(parts["data"].train)  # loads it, so that the record is opened only for what can be trained
    with recorded(tracker, title, flatten(composed), tags | code_version()):
        if not console.quiet:
            for file in parts["data"].write_report(run_folder()):
                tracker.file(file)
        with RunMonitor(tracker, console, trainer.steps, trainer.batch_size, trainer.log_every) as monitor:
            trained = trainer.fit(**parts, objective=objective, network=network, monitor=monitor)
        if not console.quiet:
            print(f"score {trained.score:.4f}", flush=True)
            keep(trained, objective, composed, title, tracker)
    weights = run_folder() / "final.safetensors"
    console.print(f"took    {time.perf_counter() - began:.0f} s", highlight=False)
    console.print(f"weights {weights}", highlight=False)
    if "ztsnr.sweep" not in tags:
        console.print(f"draw    python -m ztsnr.sample checkpoint={weights}", highlight=False)
        console.print(f"compare {tracker.how_to_open()}" if tracker.how_to_open() else "", highlight=False)
    return trained.score


def choices(groups: Iterable[str]) -> dict[str, str]:
    """The options chosen in these groups."""
    return {name: str(HydraConfig.get().runtime.choices[name]) for name in groups}


def run_folder() -> Path:
    """Hydra's folder of this run, relative where it lies below the current one."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


@contextmanager
def recorded(tracker: "Tracker", name: str, params: Mapping, tags: Mapping) -> Iterator[None]:
    """The record of a run: opened, and closed with what became of it."""
    tracker.start(name, params, tags)
    try:
        yield
    except BaseException as error:
        killed = isinstance(error, KeyboardInterrupt)
        try:
            tracker.finish("KILLED" if killed else "FAILED", f"{type(error).__name__}: {error}")
        except TrackingError as lost:
            error.add_note(str(lost))
        raise
    tracker.finish("FINISHED")


def keep(trained: "Trained", objective: "Objective", composed: DictConfig, title: str, tracker: "Tracker") -> None:
    """Writes what a run leaves into its folder, and a copy of it to the tracker."""
    from ztsnr.evaluation.plots import objective_figure, validation_figure
    from ztsnr.evaluation.summary import Summary
    from ztsnr.training.checkpoint import save_checkpoint

    folder, config = run_folder(), science(composed)
    networks = trained.networks | ({"objective": trained.learned} if trained.learned else {})
    save_checkpoint(folder / "final.safetensors", networks, config, trained.step, trained.score)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    summary = Summary(objective=objective, steps=composed.samples.steps)
    objective_figure({title: summary}).savefig(folder / "objective.png", dpi=90)
    told = f"{title}: score {trained.score:.4f}"
    validation_figure(trained.errors, told).savefig(folder / "validation.png", dpi=90)
    samples = {f"samples_guidance_{guidance:g}.png": picture for guidance, picture in trained.pictures.items()}
    for name, picture in samples.items():
        picture.save(folder / name)
    pictures = [*samples, "validation.png", "objective.png"]
    for name in (*pictures, "config.yaml", "final.safetensors"):
        tracker.file(folder / name)
    command = " ".join(["python -m ztsnr.train", *HydraConfig.get().overrides.task])
    tracker.describe(f"**score {trained.score:.4f}** after {trained.step} steps of `{command}`", pictures)


if __name__ == "__main__":
    main()
