"""What preparing data tells while it works."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

QUIET_SECONDS = 1.0
"""Work that takes less is not told of."""


@dataclass(frozen=True)
class Progress:
    console: Console

    @contextmanager
    def counting(self, what: str, total: int | None = None, unit: str = "") -> Iterator[Callable[[int], None]]:
        """A bar; inside, the function hears of how many more are done. A line with the rate remains."""
        columns = TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(bar_width=24)
        bar = Bar(*columns, TextColumn("{task.fields[rate]}"), TextColumn("left"), TimeRemainingColumn())
        bar = Bar(*bar.columns, console=self.console, disable=not self.console.is_terminal, transient=True)
        task, began, done = bar.add_task(what, total=total, rate=""), time.perf_counter(), 0

        def tell(more: int) -> None:
            nonlocal done
            done += more
            rate = done / (time.perf_counter() - began)
            bar.update(task, advance=more, rate=f"{rate:.1f} {unit}/s")

        with bar:
            yield tell
        seconds = time.perf_counter() - began
        if done and seconds > QUIET_SECONDS:
            self.console.print(f"{what}: {done} in {seconds:.0f} s, {done / seconds:.1f} {unit}/s", highlight=False)


def make_progress(quiet: bool) -> Progress:
    return Progress(Console(stderr=True, quiet=quiet, width=None if sys.stderr.isatty() else 120))
