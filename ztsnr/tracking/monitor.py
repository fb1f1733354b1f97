"""What a run tells while it trains: a line or a bar in the terminal, and metrics and pictures to the tracker."""

import math
import sys
import time
from collections.abc import Mapping

from PIL.Image import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ztsnr.analysis.plots import objective_picture
from ztsnr.analysis.summary import Summary
from ztsnr.devices.memory import peak_gib, reset_peak
from ztsnr.tracking.tracker import Tracker

BAR_SECONDS, LINE_SECONDS = 0.5, 5.0
"""At most so often is the bar drawn, or, where the output is no terminal, a line printed."""


class Monitor:
    """Hears of everything and tells nothing; the base of those that do."""

    def state(self) -> dict:
        """What it must know after a resume to go on as if there had been none."""
        return {}

    def load(self, state: dict) -> None: ...

    def stepped(self, step: int, loss: float, norm: float, lr: float) -> None:
        """After each step: mean weighted loss of the batch, gradient norm before clipping, learning rate."""

    def validated(self, step: int, errors: Mapping[str, Mapping[float, float]], score: float) -> None:
        """errors: network name -> sigma -> squared error of v."""

    def adapted(self, step: int, summary: Summary) -> None:
        """After each validation of an objective that changes as it trains."""

    def sampled(self, step: int, pictures: Mapping[float, Image]) -> None:
        """pictures: guidance scale -> one picture."""

    def measured(self, step: int, metrics: Mapping[str, float]) -> None:
        """What is measured beside the pictures, by the name that a tracker gets."""


class RunMonitor(Monitor):
    """The monitor of the commands. Means over `log_every` steps go to the tracker; use it as a context."""

    def __init__(self, tracker: Tracker, console: Console, steps: int, batch_size: int, log_every: int):
        self.tracker, self.console, self.steps = tracker, console, steps
        self.batch_size, self.log_every = batch_size, log_every
        self.window: list[tuple[float, float]] = []
        self.since = self.shown = time.perf_counter()
        self.trained_seconds = 0.0
        self.facts = self.score = ""
        self.bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[facts]}"),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            auto_refresh=False,  # a thread that draws would hold up the network's threads
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("train", total=steps, facts="")

    def __enter__(self) -> "RunMonitor":
        reset_peak()
        self.bar.start()
        return self

    def __exit__(self, *_) -> None:
        self.bar.stop()

    def state(self):
        return {"window": [list(entry) for entry in self.window], "trained_seconds": self.trained_seconds}

    def load(self, state):
        self.window = [(loss, norm) for loss, norm in state["window"]]
        self.trained_seconds, self.since = state["trained_seconds"], time.perf_counter()

    def stepped(self, step, loss, norm, lr):
        self.window.append((loss, norm))
        now, ended = time.perf_counter(), step == self.steps
        if step % self.log_every == 0 or ended:
            self._log(step, lr, now)
        if ended:
            usage = {"train_seconds": self.trained_seconds, "peak_memory_gib": peak_gib()}
            self.tracker.metrics({f"usage/{name}": value for name, value in usage.items()}, step)
        if ended or now - self.shown > (BAR_SECONDS if self.console.is_terminal else LINE_SECONDS):
            self.shown = now
            if self.console.is_terminal:
                self.bar.update(self.task, completed=step, facts=self.facts + self.score, refresh=True)
            else:
                self.console.print(f"step {step}/{self.steps}  {self.facts}", highlight=False)

    def _log(self, step: int, lr: float, now: float) -> None:
        losses, norms = zip(*self.window, strict=True)
        loss, rate = sum(losses) / len(losses), len(losses) * self.batch_size / (now - self.since)
        means = {"loss": loss, "grad_norm": sum(norms) / len(norms), "lr": lr, "samples_per_second": rate}
        self.tracker.metrics({f"train/{name}": value for name, value in means.items()}, step)
        self.facts = f"loss {loss:.4f}  lr {lr:.2e}  {rate:,.0f} samples/s"
        self.trained_seconds += now - self.since
        self.window, self.since = [], now

    def validated(self, step, errors, score):
        metrics = {"error/score": score}  # MLflow shows sections by the alphabet: this one first
        for name, by_sigma in errors.items():
            metrics |= {f"error_{name}/sigma_{_sortable(sigma)}": error for sigma, error in by_sigma.items()}
        self.tracker.metrics(metrics, step)
        self.score = f"  score {score:.4f}"
        self.console.print(f"step {step}/{self.steps}  validation score {score:.4f}", highlight=False)
        self.since = time.perf_counter()

    def adapted(self, step, summary):
        self.tracker.picture("objective", objective_picture({f"after step {step}": summary}), step)

    def sampled(self, step, pictures):
        for guidance, picture in pictures.items():
            self.tracker.picture(f"samples/guidance {guidance:g}", picture, step)

    def measured(self, step, metrics):
        if metrics:
            self.tracker.metrics(dict(metrics), step)
        self.since = time.perf_counter()


def _sortable(sigma: float) -> str:
    return "inf" if sigma == math.inf else f"{sigma:06.2f}"


def make_console() -> Console:
    """Standard error, so that standard output holds the result alone."""
    return Console(file=sys.stderr, soft_wrap=True)
