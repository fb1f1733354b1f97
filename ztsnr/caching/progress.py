"""Progress of preparing a cache."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ztsnr.io.console import make_console

QUIET_SECONDS = 1.0
"""Work that takes less leaves no line."""
Report = Callable[..., None]
"""report(more): so many more are done; report(0, total): so many there are to do."""


@dataclass(frozen=True)
class Progress:
    console: Console

    @contextmanager
    def counting(self, what: str, total: int | None = None, unit: str = "") -> Iterator[Report]:
        """A bar, with the time left where there is a total. A line with the rate remains."""
        columns: list[ProgressColumn] = [
            TextColumn("{task.description}"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[rate]}"),
        ]
        if total is not None:
            columns += [TextColumn("left"), TimeRemainingColumn()]
        bar = Bar(*columns, console=self.console, disable=not self.console.is_terminal, transient=True)
        task = bar.add_task(what, total=total, rate="")
        began = time.perf_counter()
        done = 0

        def report(more: int, total: int | None = None) -> None:
            nonlocal done
            done += more
            rate = f"{done / (time.perf_counter() - began):.1f} {unit}/s" if done else ""
            bar.update(task, advance=more, total=total, rate=rate)

        with bar:
            yield report
        seconds = time.perf_counter() - began
        if done and seconds > QUIET_SECONDS:
            self.console.print(f"{what}: {done} in {seconds:.0f} s, {done / seconds:.1f} {unit}/s")


def make_progress(quiet: bool) -> Progress:
    return Progress(make_console(sys.stderr, quiet=quiet))
