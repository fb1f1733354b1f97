"""Trains a network on an objective, and records the run: python -m ztsnr.train schedule=ztsnr loss=vpred"""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ztsnr.checkpoints.find import changes, find_state
from ztsnr.checkpoints.overrides import overrides_to_record, with_recorded_overrides
from ztsnr.config.command import command
from ztsnr.config.identity import TAGGED_GROUPS, config_digest, result_config, tracked_parameters, without_paths
from ztsnr.config.registry import build
from ztsnr.core import checks
from ztsnr.core.errors import ConfigError
from ztsnr.sweeps.attempt import run_in_sweep
from ztsnr.sweeps.files import current_sweep

if TYPE_CHECKING:
    from accelerate import PartialState

    from ztsnr.checkpoints.state_file import State
    from ztsnr.core.objective import Objective
    from ztsnr.tracking.tracker import TrackedRun, Tracker
    from ztsnr.training.trainer import TrainingResult

PARTS = ("data", "lr_schedule", "validation", "samples", "quality", "trainer", "optimizer")
TOLD = ("target", "weighting", "model", "data", "optimizer")


@command("train", text_keys=("resume",), expand=with_recorded_overrides)
def main(composed: DictConfig) -> float:
    """Returns the validation score, which sweeps rank and optimise; nan where a run of a sweep has none."""
    tracker, tags = build(composed, "tracking"), choices(TAGGED_GROUPS) | {"ztsnr.role": "run"}
    if sweep := current_sweep():
        return run_in_sweep(composed, sweep, tracker, tags, lambda name, tags: run(composed, tracker, name, tags))
    title, config = f"{tags['schedule']} {tags['loss']} seed {composed.seed}", config_digest(result_config(composed))
    return run(composed, tracker, title, tags | {"ztsnr.config": config})


def run(composed: DictConfig, tracker: "Tracker", title: str, tags: dict[str, str]) -> float:
    began = time.perf_counter()
    objective = build(composed, "objective")
    parts = {name: build(composed, name) for name in PARTS}  # all that is cheap: bad values are refused before a model
    refuse_absent_classes(parts)

    import torch

    from ztsnr.checkpoints.saver import DiskCheckpointer
    from ztsnr.data import prepare
    from ztsnr.devices.memory import explain_oom
    from ztsnr.devices.processes import join_processes
    from ztsnr.io.console import make_console
    from ztsnr.tracking.code_version import code_version
    from ztsnr.tracking.monitor import RunMonitor
    from ztsnr.tracking.tracker import NoTracker
    from ztsnr.training.signals import StopSignals

    trainer, quality = parts.pop("trainer"), parts.pop("quality")
    console, processes = make_console(sys.stderr, wrap=False), join_processes()
    trainer.try_optimizer(parts["optimizer"])
    if not processes.is_main_process:
        tracker, console.quiet = NoTracker(), True
    state = resumed(composed, processes)
    if state is None:
        tracker.check()
    told = "  ".join(f"{name}={choice}" for name, choice in choices(TOLD).items())
    console.print(f"[bold]{title}[/]  {told}")
    if state is not None:
        console.print(f"resumed after step {state.step}, from {state.path}")
        parts["data"] = parts["data"].with_statistics_from(state.facts)

    torch.manual_seed(composed.seed)
    network = build(composed, "model")
    prepare(parts["data"])  # so that the record is opened only for what can be trained
    config, folder = result_config(composed), run_folder()
    with recorded(tracker, title, tracked_parameters(composed), tags | code_version(), folder, state, config) as record:
        if not console.quiet:
            for file in parts["data"].write_report(folder):
                record.log_file(file)
        facts = {
            "config": config,
            "overrides": overrides_to_record(HydraConfig.get().overrides.task),
            "record": record.id,
        }
        facts["data"] = parts["data"].facts
        with (
            RunMonitor(record, console, trainer.steps, trainer.batch_size, trainer.log_every) as monitor,
            DiskCheckpointer(folder / "checkpoints", trainer.checkpoint, facts, state, record.flush) as checkpointer,
            StopSignals() as stop,
        ):
            trained = trainer.fit(
                **parts, objective=objective, network=network, monitor=monitor, checkpointer=checkpointer, stop=stop
            )
        if not console.quiet:
            print(f"score {trained.score:.4f}", flush=True)
            with explain_oom("a smaller quality.batch_size, or quality=none"):
                record.log_metrics(quality(objective, trained.networks[trained.best], parts["data"]), trained.step)
            keep(trained, objective, composed, title, record, parts["data"].facts)
    weights = folder / "final.safetensors"
    if record.undelivered():
        console.print(record.undelivered())
    console.print(f"took    {time.perf_counter() - began:.0f} s")
    console.print(f"weights {weights}")
    if "ztsnr.sweep" not in tags:
        console.print(f"draw    python -m ztsnr.sample checkpoint={weights}{to_draw(composed)}")
        console.print(f"compare {tracker.open_hint()}" if tracker.open_hint() else "")
    return trained.score


def to_draw(composed: DictConfig) -> str:
    """What ztsnr.sample must be told besides the checkpoint."""
    if "pretrained" not in composed.model:
        return ""
    file = composed.samples.get("file")
    return f" file={file}" if file is not None else """ 'prompts=["a red house"]'"""


def refuse_absent_classes(parts: Mapping) -> None:
    for name in ("samples", "quality"):
        if getattr(parts[name], "needs_classes", False) and not hasattr(parts["data"], "classes"):
            chosen = choices((name, "data"))
            raise ConfigError(
                f"{name}={chosen[name]} draws pictures of classes, and data={chosen['data']} has none. Use {name}=none."
            )


def choices(groups: Iterable[str]) -> dict[str, str]:
    """The options chosen in these groups."""
    return {name: str(HydraConfig.get().runtime.choices[name]) for name in groups}


def run_folder() -> Path:
    """Hydra's folder of this run, relative where it lies below the current one."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def resumed(composed: DictConfig, processes: "PartialState") -> "State | None":
    """What the run goes on from; every process reads what the first one found."""
    from accelerate.utils import broadcast_object_list

    from ztsnr.checkpoints.state_file import read_state

    resume, allowed, config = composed.resume, composed.allow_changes, result_config(composed)
    if not isinstance(resume, str) or not resume:
        raise ConfigError(f"resume must be auto, never, a run's folder or a checkpoint, got {resume!r}")
    checks.flag("allow_changes", allowed)
    state = None
    if processes.is_main_process:
        state = find_state(resume, allowed, run_folder(), config, config_digest(config))
    if processes.num_processes > 1:
        (path,) = broadcast_object_list([state.path if state else None])
        if state is None and path is not None:
            state = read_state(path)
    return state


@contextmanager
def recorded(
    tracker: "Tracker", name: str, params: Mapping, tags: Mapping, folder: Path, state: "State | None", config: dict
) -> Iterator["TrackedRun"]:
    """The record of a run: opened, and closed with what became of it."""
    step, changed = (state.step, changes(state, config)) if state else (0, [])
    if state and state.path.parent.parent.absolute() != folder.absolute():
        tags = tags | {"ztsnr.resumed_from": str(state.facts.get("record") or state.path)}
        tags |= {f"ztsnr.changed.{step}": "\n".join(changed)} if changed else {}
    record = tracker.start(name, params, tags, folder, step, changed)
    try:
        yield record
    except BaseException as error:
        killed = isinstance(error, KeyboardInterrupt)
        record.finish("KILLED" if killed else "FAILED", f"{type(error).__name__}: {error}")
        if record.undelivered():
            error.add_note(record.undelivered())
        raise
    record.finish("FINISHED")


def keep(
    trained: "TrainingResult",
    objective: "Objective",
    composed: DictConfig,
    title: str,
    record: "TrackedRun",
    facts: Mapping,
) -> None:
    """Writes what a run leaves into its folder, and a copy of it to the record. `facts` are the data's."""
    from ztsnr.analysis.plots import objective_figure, validation_figure
    from ztsnr.analysis.summary import Summary
    from ztsnr.checkpoints.weights import save_checkpoint

    folder, config = run_folder(), without_paths(result_config(composed))
    networks = trained.networks | ({"objective": trained.learned} if trained.learned else {})
    save_checkpoint(folder / "final.safetensors", networks, config, trained.step, trained.score, facts)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    summary = Summary(objective=objective, steps=composed.samples.steps)
    objective_figure({title: summary}).savefig(folder / "objective.png", dpi=90)
    told = f"{title}: score {trained.score:.4f}"
    validation_figure(trained.errors, told).savefig(folder / "validation.png", dpi=90)
    samples = {f"samples_guidance_{guidance:g}.png": picture for guidance, picture in trained.images.items()}
    for name, picture in samples.items():
        picture.save(folder / name)
    pictures = [*samples, "validation.png", "objective.png"]
    for name in (*pictures, "config.yaml", "final.safetensors"):
        record.log_file(folder / name)
    command = " ".join(["python -m ztsnr.train", *HydraConfig.get().overrides.task])
    record.describe(f"**score {trained.score:.4f}** after {trained.step} steps of `{command}`", pictures)


if __name__ == "__main__":
    main()
