"""The console that commands print to, and the progress of long work on it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

WIDTH = 120
"""Width of output that does not go to a terminal."""
QUIET_SECONDS = 1.0
"""Work that takes less time prints no line."""
Report = Callable[[int], None]
"""report(more): `more` items are done."""


def make_console(stream: TextIO, *, wrap: bool = True, quiet: bool = False) -> Console:
    """wrap: break long lines and table cells at the width; without it, text that a user may copy stays in one line."""
    width = None if stream.isatty() else WIDTH
    return Console(file=stream, width=width, soft_wrap=not wrap, quiet=quiet, highlight=False)


def make_table(*heads: str) -> Table:
    """Aligns the first column left and the others right, for numbers. Only the last column wraps."""
    table = Table(box=None, pad_edge=False)
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=index < len(heads) - 1)
    return table


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
        start = time.perf_counter()
        done = 0

        def report(more: int) -> None:
            nonlocal done
            done += more
            rate = f"{done / (time.perf_counter() - start):.1f} {unit}/s" if done else ""
            bar.update(task, advance=more, rate=rate)

        with bar:
            yield report
        seconds = time.perf_counter() - start
        if done and seconds > QUIET_SECONDS:
            self.console.print(f"{what}: {done} in {seconds:.0f} s, {done / seconds:.1f} {unit}/s")
