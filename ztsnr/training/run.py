"""One run of ztsnr.train, from its config to its files."""

import shlex
import sys
import time
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from ztsnr.checkpoints.find import find_state
from ztsnr.checkpoints.overrides import overrides_to_record
from ztsnr.checkpoints.saver import DiskCheckpointer
from ztsnr.checkpoints.state_file import State, read_state
from ztsnr.config.identity import accepted_digests, result_config, tracked_parameters
from ztsnr.config.job import chosen_options, run_folder, task_overrides
from ztsnr.config.registry import build
from ztsnr.core import checks
from ztsnr.core.errors import ConfigError
from ztsnr.data import prepare
from ztsnr.devices.memory import explain_oom
from ztsnr.devices.processes import join_processes
from ztsnr.io.console import make_console
from ztsnr.tracking.code_version import code_version
from ztsnr.tracking.monitor import RunMonitor
from ztsnr.tracking.tracker import NoTracker, TrackedRun, Tracker
from ztsnr.training.outputs import write_outputs
from ztsnr.training.parts import TrainingParts, build_parts
from ztsnr.training.record import open_record
from ztsnr.training.signals import StopSignals
from ztsnr.training.trainer import TrainingResult

SHOWN_GROUPS = ("target", "weighting", "model", "data", "optimizer")
"""The first line names the options of these groups, after the title."""


def run(config: DictConfig, tracker: Tracker, title: str, tags: dict[str, str]) -> float:
    """Runs the training command; returns the validation score. Raises ZtsnrError and Interrupted."""
    start = time.perf_counter()

    # check: bad settings are refused before anything that takes time
    parts = build_parts(config)
    processes = join_processes()
    parts.trainer.try_optimizer(parts.optimizer)
    console = make_console(sys.stderr, wrap=False, quiet=not processes.is_main_process)
    if not processes.is_main_process:
        tracker = NoTracker()

    # resume: all processes load the same state, and x0 keeps the scale that it had there
    state = resume_state(config, processes)
    if state is None:
        tracker.check()
    options = "  ".join(f"{name}={option}" for name, option in chosen_options(SHOWN_GROUPS).items())
    console.print(f"[bold]{title}[/]  {options}")
    if state is not None:
        console.print(f"resumed after step {state.step}, from {state.path}")
        parts = parts.with_data(parts.data.with_statistics_from(state.facts))

    # build: what takes time or can still fail comes before the record, so that no record is opened in vain
    torch.manual_seed(config.seed)
    network = build(config, "model")
    prepare(parts.data)

    # train, measure quality, and write the results
    recorded_config = result_config(config)
    folder = run_folder()
    parameters = tracked_parameters(config)
    with open_record(
        tracker, title, parameters, tags | code_version(), folder=folder, state=state, config=recorded_config
    ) as record:
        if processes.is_main_process:
            for file in parts.data.write_report(folder):
                record.log_file(file)
        result = train(parts, network, recorded_config, folder=folder, state=state, record=record, console=console)
        if processes.is_main_process:
            print(f"score {result.score:.4f}", flush=True)
            with explain_oom("a smaller quality.batch_size, or quality=none"):
                metrics = parts.quality(parts.objective, result.best_network, parts.data)
                record.log_metrics(metrics, result.step)
            write_outputs(result, parts, recorded_config, title=title, folder=folder, record=record)

    # report where the results are
    if record.undelivered():
        console.print(record.undelivered())
    console.print(f"took    {time.perf_counter() - start:.0f} s")
    console.print(f"weights {folder / 'final.safetensors'}")
    if "ztsnr.sweep" not in tags:  # a sweep says it once, for all its runs
        print_next_commands(console, config, folder, tracker)
    return result.score


def print_next_commands(console: Console, config: DictConfig, folder: Path, tracker: Tracker) -> None:
    """The command lines that sample from this run, and that compare it with others."""
    arguments = [f"checkpoint={folder / 'final.safetensors'}", *sample_arguments(config)]
    console.print(f"draw    {shlex.join(['python', '-m', 'ztsnr.sample', *arguments])}")
    console.print(f"compare {tracker.open_hint()}" if tracker.open_hint() else "")


def resume_state(config: DictConfig, processes: PartialState) -> State | None:
    """The state to resume from. The main process chooses it, the others read the same file."""
    if not isinstance(config.resume, str) or not config.resume:
        raise ConfigError(f"resume must be auto, never, a run's folder or a checkpoint, got {config.resume!r}")
    checks.flag("allow_changes", config.allow_changes)

    state = None
    if processes.is_main_process:
        recorded_config = result_config(config)
        digests = accepted_digests(recorded_config)
        state = find_state(config.resume, config.allow_changes, run_folder(), recorded_config, digests)
    if processes.num_processes > 1:
        (path,) = broadcast_object_list([state.path if state else None])
        if state is None and path is not None:
            state = read_state(path)
    return state


def train(
    parts: TrainingParts,
    network: nn.Module,
    config: dict,
    *,
    folder: Path,
    state: State | None,
    record: TrackedRun,
    console: Console,
) -> TrainingResult:
    """Trains with a monitor, with checkpoints in `folder`, and until a signal stops it."""
    trainer = parts.trainer
    facts = {
        "config": config,
        "overrides": overrides_to_record(task_overrides()),
        "record": record.id,
        "data": parts.data.facts,
    }
    with (
        RunMonitor(record, console, trainer.steps, trainer.batch_size, trainer.log_every) as monitor,
        DiskCheckpointer(folder / "checkpoints", trainer.checkpoint, facts, state, record.flush) as checkpointer,
        StopSignals() as stop,
    ):
        return parts.fit(network, monitor, checkpointer, stop)


def sample_arguments(config: DictConfig) -> list[str]:
    """The arguments of ztsnr.sample besides the checkpoint."""
    if "pretrained" not in config.model:
        return []
    file = config.samples.get("file")
    return ['prompts=["a red house"]'] if file is None else [f"file={file}"]
