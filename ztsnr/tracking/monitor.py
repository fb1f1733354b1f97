"""Reports a run's progress: a bar or lines in the terminal, metrics and images in its record."""

import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from PIL.Image import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ztsnr.analysis.plots import objective_image
from ztsnr.analysis.summary import Summary
from ztsnr.devices.memory import peak_gib, reset_peak
from ztsnr.tracking.tracker import TrackedRun

BAR_SECONDS = 0.5
"""The least time between two updates of the bar."""
LINE_SECONDS = 5.0
"""The least time between two lines, if the output is not a terminal."""


class Monitor:
    """Its methods are called as a run trains. This base ignores them."""

    def state(self) -> dict:
        """The state that lets a resumed run report as if it had not been interrupted."""
        return {}

    def load(self, state: dict) -> None:
        """Restores what `state` returned."""

    def stepped(self, step: int, loss: float, norm: float, lr: float) -> None:
        """After each step: mean weighted loss of the batch, gradient norm before clipping, learning rate."""

    def validated(self, step: int, errors: Mapping[str, Mapping[float, float]], score: float) -> None:
        """errors: network name -> sigma -> squared error of v."""

    def adapted(self, step: int, summary: Summary) -> None:
        """After each validation of an objective that changes as it trains."""

    def sampled(self, step: int, images: Mapping[float, Image]) -> None:
        """images: guidance scale -> one image."""

    def measured(self, step: int, metrics: Mapping[str, float]) -> None:
        """metrics: measured on samples, by name."""


class RunMonitor(Monitor):
    """The monitor of the commands. It records means over `log_every` steps; use it as a context."""

    def __init__(self, record: TrackedRun, console: Console, steps: int, batch_size: int, log_every: int) -> None:
        self.record = record
        self.console = console
        self.steps = steps
        self.batch_size = batch_size
        self.log_every = log_every
        self.trained_seconds = 0.0
        self._window: list[tuple[float, float]] = []  # loss and gradient norm of the steps since the last log
        self._window_start = time.perf_counter()
        self._last_shown = self._window_start
        self._status = ""
        self._score = ""
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[status]}"),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            auto_refresh=False,  # a drawing thread would slow down the network's threads
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=steps, status="")

    def __enter__(self) -> Self:
        reset_peak()
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def state(self) -> dict:
        return {"window": [list(entry) for entry in self._window], "trained_seconds": self.trained_seconds}

    def load(self, state: dict) -> None:
        self._window = [(loss, norm) for loss, norm in state["window"]]
        self.trained_seconds = state["trained_seconds"]
        self._window_start = time.perf_counter()

    def stepped(self, step: int, loss: float, norm: float, lr: float) -> None:
        now = time.perf_counter()
        is_last = step == self.steps
        self._window.append((loss, norm))
        if step % self.log_every == 0 or is_last:
            self._log(step, lr, now)
        if is_last:
            usage = {"usage/train_seconds": self.trained_seconds, "usage/peak_memory_gib": peak_gib()}
            self.record.log_metrics(usage, step)

        pause = BAR_SECONDS if self.console.is_terminal else LINE_SECONDS
        if is_last or now - self._last_shown > pause:
            self._last_shown = now
            self._show(step)

    def _log(self, step: int, lr: float, now: float) -> None:
        count = len(self._window)
        seconds = now - self._window_start
        loss = sum(loss for loss, _ in self._window) / count
        norm = sum(norm for _, norm in self._window) / count
        rate = count * self.batch_size / seconds
        metrics = {"loss": loss, "grad_norm": norm, "lr": lr, "samples_per_second": rate}
        self.record.log_metrics({f"train/{name}": value for name, value in metrics.items()}, step)

        self._status = f"loss {loss:.4f}  lr {lr:.2e}  {rate:,.0f} samples/s"
        self.trained_seconds += seconds
        self._window = []
        self._window_start = now

    def _show(self, step: int) -> None:
        if self.console.is_terminal:
            self._bar.update(self._task, completed=step, status=self._status + self._score, refresh=True)
        else:
            self.console.print(f"step {step}/{self.steps}  {self._status}")

    def validated(self, step: int, errors: Mapping[str, Mapping[float, float]], score: float) -> None:
        metrics = {"error/score": score}  # MLflow sorts sections by name, so this one comes first
        for name, by_sigma in errors.items():
            for sigma, error in by_sigma.items():
                metrics[f"error_{name}/sigma_{_sortable(sigma)}"] = error
        self.record.log_metrics(metrics, step)

        self._score = f"  score {score:.4f}"
        self.console.print(f"step {step}/{self.steps}  validation score {score:.4f}")
        self._window_start = time.perf_counter()  # validation does not count as training time

    def adapted(self, step: int, summary: Summary) -> None:
        self.record.log_image("objective", objective_image({f"after step {step}": summary}), step)

    def sampled(self, step: int, images: Mapping[float, Image]) -> None:
        for guidance, image in images.items():
            self.record.log_image(f"samples/guidance {guidance:g}", image, step)

    def measured(self, step: int, metrics: Mapping[str, float]) -> None:
        if metrics:
            self.record.log_metrics(metrics, step)
        self._window_start = time.perf_counter()


def _sortable(sigma: float) -> str:
    """Text whose alphabetical order is the order of the values."""
    return "inf" if sigma == math.inf else f"{sigma:06.2f}"
