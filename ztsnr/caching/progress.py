"""What preparing data tells while it works."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ztsnr.io.console import make_console

QUIET_SECONDS = 1.0
"""Work that takes less is not told of."""
Tell = Callable[..., None]
"""tell(more) that so many more are done; tell(0, total) what there is to do."""


@dataclass(frozen=True)
class Progress:
    console: Console

    @contextmanager
    def counting(self, what: str, total: int | None = None, unit: str = "") -> Iterator[Tell]:
        """A bar, with the time left where there is a total. A line with the rate remains."""
        columns = [TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(bar_width=24)]
        columns += [TextColumn("{task.fields[rate]}")]
        columns += [TextColumn("left"), TimeRemainingColumn()] if total is not None else []
        bar = Bar(*columns, console=self.console, disable=not self.console.is_terminal, transient=True)
        task, began, done = bar.add_task(what, total=total, rate=""), time.perf_counter(), 0

        def tell(more: int, total: int | None = None) -> None:
            nonlocal done
            done += more
            rate = f"{done / (time.perf_counter() - began):.1f} {unit}/s" if done else ""
            bar.update(task, advance=more, total=total, rate=rate)

        with bar:
            yield tell
        seconds = time.perf_counter() - began
        if done and seconds > QUIET_SECONDS:
            self.console.print(f"{what}: {done} in {seconds:.0f} s, {done / seconds:.1f} {unit}/s")


def make_progress(quiet: bool) -> Progress:
    return Progress(make_console(sys.stderr, quiet=quiet))
