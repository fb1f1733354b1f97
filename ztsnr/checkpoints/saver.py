"""Saves a run's training states and snapshots while it trains, and restores a state when it resumes.

index.json in RUN/checkpoints names the newest state and the best. Files are written in a thread, from a copy in host
memory, one at a time.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from torch import Tensor, nn

from ztsnr.checkpoints.background import BackgroundWriter
from ztsnr.checkpoints.policy import SavePolicy
from ztsnr.checkpoints.state_file import State, file_of, saved_steps, write_state
from ztsnr.checkpoints.tree import pack
from ztsnr.checkpoints.weights import write_checkpoint
from ztsnr.core.errors import CheckpointError
from ztsnr.devices.processes import join_processes
from ztsnr.io.atomic import write_text_atomically


class Stateful(Protocol):
    def state(self) -> dict: ...

    def load(self, state: dict) -> None:
        """Raises CheckpointError for a state that does not fit."""
        ...


class Best(NamedTuple):
    """The step and score of the best validation so far."""

    step: int | None = None
    score: float | None = None


class Checkpointer:
    """The interface of the training loop to checkpoints. This base saves nothing."""

    def resume(self, parts: Mapping[str, Stateful]) -> int:
        """Called before the first step: restores the parts' state; returns the number of steps already trained."""
        return 0

    def after_step(self, step: int) -> None:
        """Called after `step` steps, before the evaluation: saves if a save is due."""

    def save_now(self, step: int) -> None:
        """Returns when the state is on the disk. Every process must call it."""

    def validated(self, step: int, score: float) -> None:
        """Called after a validation in the main process; a lower score is better."""

    def snapshot(self, step: int, averages: Mapping[str, nn.Module]) -> None:
        """Saves averages of the weights, to be combined after training."""


class DiskCheckpointer(Checkpointer):
    """Saves into a run's folder; use it as a context, which waits for the last file.

    folder: RUN/checkpoints. facts: the metadata of each file. resume_state: the state that `resume` restores.
    before_write: called in the writer's thread before each file, to flush what must not be older than the file.
    """

    def __init__(
        self,
        folder: Path,
        policy: SavePolicy,
        facts: Mapping,
        resume_state: State | None,
        before_write: Callable[[], object] = lambda: None,
    ) -> None:
        self.folder = folder
        self.policy = policy
        self._facts = facts
        self._resume_state = resume_state
        self._before_write = before_write
        self._processes = join_processes()
        self._writer = BackgroundWriter()
        self._parts: Mapping[str, Stateful] = {}
        self._resumed_step = 0
        self._last_save = time.monotonic()
        self._best = Best()

    def __enter__(self) -> Self:
        if self._processes.is_main_process:
            for leftover in self.folder.glob(".step_*"):  # of a process that was killed while writing
                leftover.unlink()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self._writer.wait()
            if kind is None:
                self._report_error()

    def resume(self, parts: Mapping[str, Stateful]) -> int:
        self._parts = parts
        state = self._resume_state
        if state is None:
            return 0
        try:
            for name, part in parts.items():
                part.load(state.parts[name])
        except KeyError as error:
            raise CheckpointError(f"{state.path} has no {error}") from error
        except CheckpointError as error:
            raise CheckpointError(f"{state.path} cannot be resumed by this run: {error}") from error

        state.parts.clear()  # frees their memory
        self._best = read_best(self.folder)
        self._resumed_step = state.step
        return state.step

    def after_step(self, step: int) -> None:
        self._report_error()
        due = step > self._resumed_step and self.policy.due(step, time.monotonic() - self._last_save)
        if due and self._processes.is_main_process:
            self._save(step)

    def save_now(self, step: int) -> None:
        self._report_error()
        if self._processes.is_main_process:
            self._save(step)
        self._writer.wait()
        self._processes.wait_for_everyone()
        self._report_error()

    def validated(self, step: int, score: float) -> None:
        is_best = self._best.score is None or score < self._best.score
        if self.policy.keep_best and is_best:
            self._best = Best(step, score)
            self._save(step)

    def snapshot(self, step: int, averages: Mapping[str, nn.Module]) -> None:
        if not self._processes.is_main_process:
            return
        tensors = {}
        for name, network in averages.items():
            for tensor_name, tensor in network.state_dict().items():
                tensors[f"{name}\0{tensor_name}"] = tensor
        self._writer.start("snapshot", tensors, lambda copies: self._write_snapshot(step, copies))

    def _save(self, step: int) -> None:
        tree, tensors = pack({name: part.state() for name, part in self._parts.items()}, "state")
        self._writer.start("state", tensors, lambda copies: self._write_state(step, tree, copies))
        self._last_save = time.monotonic()

    # These two run in the writer's thread.

    def _write_state(self, step: int, tree: object, tensors: Mapping[str, Tensor]) -> None:
        self._before_write()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_state(file_of(self.folder, step), step, self._facts, tree, tensors)

        best = self._best  # read it only once: a validation may change it while this thread writes
        index = json.dumps({"newest": step, "best": best.step, "score": best.score})
        write_text_atomically(self.folder / "index.json", index)

        steps = saved_steps(self.folder)
        for old in set(steps) - self.policy.steps_to_keep(steps, best.step):
            file_of(self.folder, old).unlink(missing_ok=True)

    def _write_snapshot(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        folder = self.folder.with_name("snapshots")
        folder.mkdir(parents=True, exist_ok=True)
        states: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            average, _, tensor_name = name.partition("\0")
            states.setdefault(average, {})[tensor_name] = tensor

        stds = {name: float(name.removeprefix("std_")) for name in states}
        facts = self._facts.get("data", {}) | {"posthoc_stds": stds}
        write_checkpoint(file_of(folder, step), states, self._facts["config"], step, facts=facts)

    def _report_error(self) -> None:
        """Raises the writer's error, or logs it with on_save_error=continue."""
        error = self._writer.take_error()
        if error is None:
            return
        message = str(error) if isinstance(error, CheckpointError) else f"{self.folder} cannot be written: {error}"
        if self.policy.on_save_error == "stop":
            raise CheckpointError(
                f"{message} The previous checkpoint is intact. Free disk space, or use "
                f"trainer.checkpoint.on_save_error=continue"
            ) from error
        logging.getLogger(__name__).warning("%s Training continues; the previous checkpoint is intact.", message)


def read_best(folder: Path) -> Best:
    """From index.json; if that cannot be read, the next validation counts as the best."""
    try:
        index = json.loads((folder / "index.json").read_text())
        return Best(index["best"], index["score"])
    except (OSError, ValueError, KeyError, TypeError):
        return Best()
