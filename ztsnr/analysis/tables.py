"""The tables of `ztsnr.preview`: objectives by noise level."""

import math
import sys
from collections.abc import Mapping
from itertools import pairwise

import torch
from rich.console import Console
from rich.table import Table

from ztsnr.analysis.summary import BASES, SDXL_MAX, Summary, percent, same_objectives
from ztsnr.core.format_names import target_name
from ztsnr.io.console import make_table

EDGES = (0, 0.01, 0.1, 1, 10, 100, 1000, sys.float_info.max)
"""The limits of the table's rows; sigma = inf has its own row."""


def print_one(console: Console, name: str, summary: Summary) -> None:
    """Prints draws, weights and timesteps by noise level, the levels that sampling visits, and notes."""
    console.print(f"[bold]{name}[/]  target {target_name(summary.objective.target)}")
    table = make_table("level σ", "draws", "weight", *(f"w({base})" for base in BASES), "t")
    for low, high in [*pairwise(EDGES), (math.inf, math.inf)]:
        _add_level(table, summary, low, high)
    table.add_section()
    table.add_row(f"above {SDXL_MAX}", *map(percent, summary.share(SDXL_MAX)))
    console.print(table)
    console.print("weight: share of the loss on the squared error of v. w(base), and t, the network's timestep,")
    console.print("are those in the middle of the row.")

    levels = summary.grid[:-1]
    timesteps = summary.objective.schedule.timesteps(levels)
    visited = [f"{short(sigma)} ({short(t)})" for sigma, t in zip(levels.tolist(), timesteps.tolist(), strict=True)]
    console.print(f"\nsampling in {summary.steps} steps, σ (t): {', '.join(visited)}, 0\n", soft_wrap=False)
    _print_notes(console, summary.notes())


def _add_level(table: Table, summary: Summary, low: float, high: float) -> None:
    """Adds a row for low < sigma <= high, or for the one level low = high, if training draws there."""
    if low == high:
        draws, weight = summary.share_at(low)
        middle = low
        label = "∞"
    else:
        draws, weight = summary.share(low, high)
        middle = math.sqrt(max(low, 1e-3) * min(high, 1e4))
        label = f"{low:g} to {high:g}" if high < 1e300 else f"above {low:g}"
    if not draws:
        return

    objective = summary.objective
    sigma = torch.tensor([middle]).double()
    with torch.no_grad():
        by_base = [objective.weighting(sigma, base).item() for base in BASES.values()]
    t = objective.schedule.timesteps(sigma).item()
    table.add_row(label, percent(draws), percent(weight), *map(short, by_base), short(t))


def print_many(console: Console, summaries: Mapping[str, Summary], refused: Mapping[str, str]) -> None:
    """Prints a row for each objective, groups of equal objectives, and notes. refused: name -> message."""
    above = f"σ > {SDXL_MAX}"
    table = make_table("", f"draws {above}", f"weight {above}", "at ∞", "weight", "median σ", "weight", "from σ")
    for name, summary in summaries.items():
        shares = map(percent, (*summary.share(SDXL_MAX), *summary.share_at(math.inf)))
        table.add_row(name, *shares, *map(short, summary.median()), short(summary.start))
    for name in refused:
        table.add_row(name, "[red]refused[/]")
    console.print(table)
    console.print(
        "Each pair: of the draws, and of the loss weight on the squared error of v. Sampling starts from σ.\n"
    )

    for group in same_objectives(summaries):
        console.print(f"[bold green]Same objective:[/] {' | '.join(group)}")
    names_by_note: dict[str, list[str]] = {}
    for name, summary in summaries.items():
        for note in summary.notes():
            names_by_note.setdefault(note, []).append(name)
    for note, names in names_by_note.items():
        _print_notes(console, [note], f"{' | '.join(names)}: ")
    for name, reason in refused.items():
        console.print(f"[bold red]{name}:[/] {reason}", soft_wrap=False)


def short(number: float) -> str:
    """Three digits."""
    if number == math.inf:
        return "∞"
    return "-" if math.isnan(number) else f"{number:.3g}"


def _print_notes(console: Console, notes: list[str], prefix: str = "") -> None:
    for note in notes:
        kind, _, rest = note.partition(": ")
        console.print(f"[bold]{prefix}[/][bold yellow]{kind}:[/] {rest}", soft_wrap=False)
