"""The console that commands print to."""

from typing import TextIO

from rich.console import Console

WIDTH = 120
"""Of the output where it is not a terminal."""


def make_console(stream: TextIO, *, wrap: bool = True, quiet: bool = False) -> Console:
    """wrap: break long lines and table cells at the width; without it, what a user may copy stays in one line."""
    width = None if stream.isatty() else WIDTH
    return Console(file=stream, width=width, soft_wrap=not wrap, quiet=quiet, highlight=False)
