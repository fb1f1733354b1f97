"""Training states in a run's folder: when they are written, which are kept, and where a run goes on.

index.json in RUN/checkpoints points to the newest and to the best. Each is written off the training's thread, from a
copy in host memory, one at a time.
"""

import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ztsnr.checkpoints.state import pack
from ztsnr.checkpoints.state_file import State, file_of, saved_steps, write_state
from ztsnr.checkpoints.weights import write_checkpoint
from ztsnr.core import checks
from ztsnr.core.errors import CheckpointError, ConfigError, Interrupted
from ztsnr.devices.processes import join_processes
from ztsnr.io.atomic import write_whole
from ztsnr.training.signals import Signals

SECONDS = {"s": 1, "min": 60, "h": 3600}


class Part(Protocol):
    def state(self) -> dict: ...

    def load(self, state: dict) -> None:
        """Raises CheckpointError for a state that does not fit."""


@dataclass(frozen=True, kw_only=True)
class SavePolicy:
    """`every`: a number of steps, or a time such as 10min; null saves only when a signal ends the run.

    Kept are the newest `keep`, every `keep_every` steps (null: none more), and with `keep_best` that of the best
    validation, which is then saved whenever the score improves. `on_save_error`: stop, or go_on without that one.
    """

    every: int | str | None
    keep: int
    keep_best: bool
    keep_every: int | None
    on_save_error: str

    def __post_init__(self):
        if isinstance(self.every, str):
            if not re.fullmatch(r"\d+(s|min|h)", self.every):
                told = "a number of steps or a time such as 90s, 10min or 2h"
                raise ConfigError(f"trainer.checkpoint.every must be {told}, got {self.every!r}")
        elif self.every is not None:
            checks.integer("trainer.checkpoint.every", self.every, at_least=1)
        checks.integer("trainer.checkpoint.keep", self.keep, at_least=1)
        checks.flag("trainer.checkpoint.keep_best", self.keep_best)
        if self.keep_every is not None:
            checks.integer("trainer.checkpoint.keep_every", self.keep_every, at_least=1)
        checks.one_of("trainer.checkpoint.on_save_error", self.on_save_error, ("stop", "continue"))

    def due(self, step: int, seconds: float) -> bool:
        """After `step` steps, `seconds` after the last save."""
        if isinstance(self.every, str):
            number, unit = re.fullmatch(r"(\d+)(\w+)", self.every).groups()
            return seconds >= int(number) * SECONDS[unit]
        return self.every is not None and step % self.every == 0

    def spared(self, steps: list[int], best: int | None) -> set[int]:
        """Which of these saved steps, ascending, are kept."""
        kept = set(steps[-self.keep :]) | {best}
        return kept | {step for step in steps if self.keep_every and step % self.keep_every == 0}


class Saves:
    """Saves nothing and never ends a run; the base of that which does."""

    def begin(self, parts: Mapping[str, Part]) -> int:
        """Before the first step: fills the parts with what there is to go on from; returns how many steps it has."""
        return 0

    def at(self, step: int) -> None:
        """After `step` steps, before anything is measured."""

    def validated(self, step: int, score: float) -> None: ...

    def snapshot(self, step: int, averages: Mapping[str, nn.Module]) -> None:
        """Of averages to be combined after training."""


class RunSaves(Saves):
    """The saves of the commands; use it as a context. `found` is the state to go on from.

    `before` is called off the training's thread before each write, to bring to the disk what must not be older.
    """

    def __init__(self, folder: Path, policy: SavePolicy, facts: Mapping, found: State | None, before=lambda: None):
        self.folder, self.policy, self.facts, self.found, self.before = folder, policy, facts, found, before
        self.processes = join_processes()
        self.main = self.processes.is_main_process
        self.signals, self.rooms, self.writing = Signals(), {}, None
        self.error: Exception | None = None
        self.best = (None, None)  # its step and score
        self.started, self.since = 0, time.monotonic()

    def __enter__(self) -> "RunSaves":
        if self.main:
            for left in self.folder.glob(".step_*"):  # by a process that was killed while it wrote
                left.unlink()
        self.signals.listen()
        return self

    def __exit__(self, kind, *_) -> None:
        self.signals.leave()
        if kind is None or issubclass(kind, Exception):
            self._wait()
            if kind is None:
                self._tell_error()

    def begin(self, parts):
        self.parts = parts
        if self.found is None:
            return 0
        try:
            for name, part in parts.items():
                part.load(self.found.parts[name])
        except KeyError as error:
            raise CheckpointError(f"{self.found.path} has no {error}") from error
        except CheckpointError as error:
            raise CheckpointError(f"{self.found.path} cannot be resumed by this run: {error}") from error
        self.found.parts.clear()  # memory
        self.best, self.started = read_best(self.folder), self.found.step
        return self.started

    def at(self, step):
        stop = self._stop()
        self._tell_error()
        due = step > self.started and self.policy.due(step, time.monotonic() - self.since)
        if self.main and (stop or due):
            self._save(step)
        if stop:
            self._wait()
            self.processes.wait_for_everyone()
            self._tell_error()
            raise Interrupted(f"{self.signals.name or 'A signal'} ended the run after step {step}, which is saved")

    def validated(self, step, score):
        if self.policy.keep_best and (self.best[1] is None or score < self.best[1]):
            self.best = step, score
            self._save(step)

    def _stop(self) -> bool:
        """Whether any process heard a signal: all end after the same step."""
        if self.processes.num_processes == 1:
            return self.signals.heard
        heard = torch.tensor(float(self.signals.heard), device=self.processes.device)
        torch.distributed.all_reduce(heard)
        return heard.item() > 0

    def _save(self, step: int) -> None:
        tree, tensors = pack({name: part.state() for name, part in self.parts.items()}, "state")
        self._start("state", tensors, lambda room: self._write_state(step, tree, room))
        self.since = time.monotonic()

    def snapshot(self, step, averages):
        if self.main:
            states = {name: network.state_dict() for name, network in averages.items()}
            tensors = {f"{name}\0{key}": value for name, state in states.items() for key, value in state.items()}
            self._start("snapshot", tensors, lambda room: self._write_snapshot(step, room))

    def _start(self, kind: str, tensors: Mapping[str, Tensor], write: Callable[[Mapping[str, Tensor]], None]) -> None:
        self._wait()
        self.rooms[kind] = copied(tensors, self.rooms.get(kind, {}))
        self.writing = threading.Thread(target=self._write, args=(write, self.rooms[kind]), name="saves", daemon=True)
        self.writing.start()

    def _write_state(self, step: int, tree, tensors: Mapping[str, Tensor]) -> None:
        self.before()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_state(file_of(self.folder, step), step, self.facts, tree, tensors)
        best, score = self.best
        index = json.dumps({"newest": step, "best": best, "score": score})
        write_whole(self.folder / "index.json", lambda path: path.write_text(index))
        steps = saved_steps(self.folder)
        for old in set(steps) - self.policy.spared(steps, best):
            file_of(self.folder, old).unlink(missing_ok=True)

    def _write_snapshot(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        folder, states = self.folder.with_name("snapshots"), {}
        folder.mkdir(parents=True, exist_ok=True)
        for name, tensor in tensors.items():
            average, _, key = name.partition("\0")
            states.setdefault(average, {})[key] = tensor
        facts = self.facts.get("data", {}) | {
            "posthoc_stds": {name: float(name.removeprefix("std_")) for name in states}
        }
        write_checkpoint(file_of(folder, step), states, self.facts["config"], step, math.nan, facts)

    def _write(self, write: Callable[[Mapping[str, Tensor]], None], tensors: Mapping[str, Tensor]) -> None:
        try:
            write(tensors)
        except Exception as error:  # of the disk, whatever it is: the training's thread raises or tells it
            self.error = error

    def _wait(self) -> None:
        if self.writing is not None:
            self.writing.join()

    def _tell_error(self) -> None:
        error, self.error = self.error, None
        if error is None:
            return
        told = str(error) if isinstance(error, CheckpointError) else f"{self.folder} cannot be written: {error}"
        if self.policy.on_save_error == "stop":
            hint = "The one before it is sound. Make room, or use trainer.checkpoint.on_save_error=continue"
            raise CheckpointError(f"{told} {hint}") from error
        logging.getLogger(__name__).warning("%s The run goes on; it can be resumed from the one before it.", told)


def copied(tensors: Mapping[str, Tensor], room: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In host memory, in that of `room` where it fits: new memory costs more than the copy."""
    copies = {}
    for name, tensor in tensors.items():
        place = room.get(name)
        if place is None or (place.shape, place.dtype) != (tensor.shape, tensor.dtype):
            place = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        if tensor.is_cuda:
            place.copy_(tensor, non_blocking=True)
        else:  # by one thread: on a busy machine torch's wait for each other longer than they copy
            _bytes(place)[:] = _bytes(tensor)
        copies[name] = place
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return copies


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def read_best(folder: Path) -> tuple[int | None, float | None]:
    try:
        index = json.loads((folder / "index.json").read_text())
        return index["best"], index["score"]
    except (OSError, ValueError, KeyError, TypeError):
        return None, None  # the next validation is the best
