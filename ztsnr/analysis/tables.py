"""What `ztsnr.preview` prints: tables over the noise levels."""

import math
import sys
from collections.abc import Mapping
from itertools import pairwise

import torch
from rich.console import Console
from rich.table import Table

from ztsnr.analysis.summary import BASES, SDXL_MAX, Summary, percent, same_objectives
from ztsnr.core.format_names import target_name
from ztsnr.io.console import make_console

EDGES = (0, 0.01, 0.1, 1, 10, 100, 1000, sys.float_info.max)


def tell_one(console: Console, name: str, summary: Summary) -> None:
    objective = summary.objective
    console.print(f"[bold]{name}[/]  target {target_name(objective.target)}")
    table = make_table("level σ", "draws", "weight", *(f"w({base})" for base in BASES), "t")
    for low, high in [*pairwise(EDGES), (math.inf, math.inf)]:
        shares = summary.share_at(low) if low == high else summary.share(low, high)
        if shares[0]:
            middle = torch.tensor([low if low == high else math.sqrt(max(low, 1e-3) * min(high, 1e4))]).double()
            with torch.no_grad():
                on_bases = [objective.weighting(middle, base).item() for base in BASES.values()]
            told = objective.schedule.timesteps(middle).item()
            label = "∞" if low == high else f"{low:g} to {high:g}" if high < 1e300 else f"above {low:g}"
            table.add_row(label, *map(percent, shares), *map(short, on_bases), short(told))
    table.add_section()
    table.add_row(f"above {SDXL_MAX}", *map(percent, summary.share(SDXL_MAX)))
    console.print(table)
    console.print("weight: share of the loss on the squared error of v. w(base), and t, which the network is")
    console.print("told, are those in the middle of the row.")
    levels = summary.grid[:-1]
    stops = zip(map(short, levels.tolist()), map(short, objective.schedule.timesteps(levels).tolist()), strict=True)
    visited = ", ".join(f"{sigma} ({t})" for sigma, t in stops)
    console.print(f"\nsampling in {summary.steps} steps, σ (t): {visited}, 0\n", soft_wrap=False)
    tell_notes(console, summary.notes())


def tell_many(console: Console, summaries: Mapping[str, Summary], refused: Mapping[str, str]) -> None:
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
    told: dict[str, list[str]] = {}
    for name, summary in summaries.items():
        for note in summary.notes():
            told.setdefault(note, []).append(name)
    for note, names in told.items():
        tell_notes(console, [note], f"{' | '.join(names)}: ")
    for name, reason in refused.items():
        console.print(f"[bold red]{name}:[/] {reason}", soft_wrap=False)


def tell_sweep(results: Mapping[str, dict], seconds: float) -> str:
    """Prints what became of a sweep's runs, the best first; returns it as Markdown."""
    console = make_console(sys.stderr)
    ranked = sorted(results.values(), key=lambda result: math.inf if result["score"] is None else result["score"])
    table, rows = make_table("run", "score", "seconds", ""), []
    table.columns[-1].justify = "left"
    for result in ranked:
        score = result["outcome"] if result["score"] is None else f"{result['score']:.4f}"
        message = result["message"].split(". ")[0]
        table.add_row(result["name"], score, f"{result['seconds']:.0f}", message)
        rows.append(f"| {result['name']} | {score} | {result['seconds']:.0f} | {message} |")
    console.print(table)
    console.print(f"{len(ranked)} runs in {seconds:.0f} s")
    return "\n".join(["| run | score | seconds | |", "|---|---|---|---|", *rows])


def make_table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", no_wrap=place < len(heads) - 1)
    return table


def tell_notes(console: Console, notes: list[str], prefix: str = "") -> None:
    for note in notes:
        kind, _, rest = note.partition(": ")
        console.print(f"[bold]{prefix}[/][bold yellow]{kind}:[/] {rest}", soft_wrap=False)


def short(number: float) -> str:
    return "∞" if number == math.inf else "-" if math.isnan(number) else f"{number:.3g}"
