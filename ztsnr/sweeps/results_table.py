"""What a sweep prints when it ends: the outcome of each of its runs."""

import math
import sys
from collections.abc import Mapping

from ztsnr.io.console import make_console, make_table


def print_sweep(results: Mapping[str, dict], seconds: float) -> str:
    """Prints the outcomes of a sweep's runs, the best first; returns them as Markdown."""
    console = make_console(sys.stderr)
    ranked = sorted(results.values(), key=lambda result: math.inf if result["score"] is None else result["score"])
    table = make_table("run", "score", "seconds", "")
    table.columns[-1].justify = "left"
    rows = ["| run | score | seconds | |", "|---|---|---|---|"]
    for result in ranked:
        score = result["outcome"] if result["score"] is None else f"{result['score']:.4f}"
        message = result["message"].split(". ")[0]
        table.add_row(result["name"], score, f"{result['seconds']:.0f}", message)
        rows.append(f"| {result['name']} | {score} | {result['seconds']:.0f} | {message} |")
    console.print(table)
    console.print(f"{len(ranked)} runs in {seconds:.0f} s")
    return "\n".join(rows)
