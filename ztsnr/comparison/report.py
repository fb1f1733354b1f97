"""A comparison for its readers: a table in the terminal, one HTML page with everything in it, and files for scripts."""

import base64
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from PIL import Image
from rich.console import Console

from ztsnr.analysis.tables import make_table
from ztsnr.comparison.figures import MOST, Drawn, sheet
from ztsnr.comparison.options import MEASURES, Estimate
from ztsnr.comparison.ranking import Comparison, same_options, written
from ztsnr.comparison.runs import Record

FEW = 3
OTHERS = {"score": "score", "frechet": "Fréchet", "accuracy": "accuracy"}
"""Measures that stand beside the one that ranks."""


@dataclass(frozen=True)
class Report:
    comparison: Comparison
    table: list[dict]
    same: Sequence[Sequence[str]]
    drawn: Mapping[str, Drawn]
    samples: Image.Image | None
    source: str
    """The command that made it."""

    @property
    def shown(self) -> list[list[str]]:
        """The table's head and its rows as they are read."""
        ranked = self.comparison.measure
        others = [name for name in OTHERS if MEASURES[name] is not ranked and self._has(name)]
        head = ["", ranked.title, f"- {self.comparison.baseline.name}", *(OTHERS[name] for name in others)]
        head += ["seconds", "GiB", "seeds", ""]
        return [head, *(self._shown(cells, others) for cells in self.table)]

    def _has(self, name: str) -> bool:
        return any(not math.isnan(cells[name]) for cells in self.table)

    def _shown(self, cells: Mapping, others: Sequence[str]) -> list[str]:
        def number(name: str) -> str:
            guidance = f" at {cells[f'{name}_guidance']:g}" if f"{name}_guidance" in cells else ""
            return "-" if math.isnan(cells[name]) else f"{cells[name]:.3g}{guidance}"

        def estimate(name: str) -> Estimate:
            return Estimate(cells[name], cells[f"{name}_interval"], cells["seeds"])

        baseline = cells["option"] == self.comparison.baseline.name
        digits = self.comparison.digits
        told = "baseline" if baseline else written(estimate("difference"), digits, "+") + " *" * cells["apart"]
        numbers = [number(name) for name in (*others, "seconds", "memory_gib")]
        notes = [f"same as {', '.join(cells['same_objective'])}"] * bool(cells["same_objective"])
        notes += [": ".join(filter(None, (cells["outcome"], cells["message"].split(". ")[0])))] * bool(cells["outcome"])
        return [
            cells["option"],
            written(estimate("value"), digits),
            told,
            *numbers,
            str(cells["seeds"]),
            "; ".join(notes),
        ]

    @property
    def notes(self) -> list[str]:
        notes = []
        if any(cells["apart"] for cells in self.table):
            notes.append("* differs from the baseline: the 95 % intervals, paired by seed, hold for all rows at once.")
        if min(row.value.count for row in self.comparison.rows) < FEW:
            notes.append(f"Intervals over fewer than {FEW} seeds are very wide: more seeds tell more options apart.")
        if len(self.comparison.rows) > MOST:
            notes.append(f"Figures of lines show the best {MOST} of {len(self.comparison.rows)} options.")
        return notes

    def tell(self, console: Console) -> None:
        head, *rows = self.shown
        table = make_table(*head)
        table.columns[-1].justify = "left"
        for row in rows[: len(self.comparison.rows)]:
            table.add_row(*row)
        console.print(f"[bold]{self.comparison.question}[/]  {self.comparison.answer}", soft_wrap=False)
        console.print(table)
        for row in rows[len(self.comparison.rows) :]:
            console.print(f"[bold]{row[0]}[/]  {row[-1]}", soft_wrap=False)
        for note in self.notes:
            console.print(note, soft_wrap=False)

    def markdown(self) -> str:
        head, *rows = self.shown
        lines = [f"**{self.comparison.question}** {self.comparison.answer}", "", f"| {' | '.join(head)} |"]
        lines += ["|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]
        return "\n".join([*lines, "", *self.notes, f"`{self.source}`, with figures in the artifacts: comparison/"])

    def as_json(self) -> str:
        """NaN, which JSON lacks, is null."""
        plain = [{name: None if value != value else value for name, value in row.items()} for row in self.table]
        facts = {"question": self.comparison.question, "answer": self.comparison.answer}
        facts |= {"measure": self.comparison.measure.metric, "baseline": self.comparison.baseline.name}
        return json.dumps(facts | {"options": plain}, indent=1)

    def as_csv(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "same_objective": "; ".join(row["same_objective"])} for row in self.table)
        return text.getvalue()

    def write(self, folder: Path) -> Path:
        """Leaves the page, its pictures and the table in `folder`; returns the page's place."""
        pictures = {}
        for name, drawn in self.drawn.items():
            drawn.figure.savefig(folder / f"{name}.png", dpi=140)
            pictures[name] = (drawn.title, drawn.caption)
        if self.samples:
            self.samples.save(folder / "samples.png")
            pictures["samples"] = ("Samples", "A row a class, a column a seed: the same noise for every option.")
        (folder / "table.csv").write_text(self.as_csv(), encoding="utf-8")
        (folder / "table.json").write_text(self.as_json(), encoding="utf-8")
        encoded = {name: base64.b64encode((folder / f"{name}.png").read_bytes()).decode() for name in pictures}
        template = files("ztsnr.comparison").joinpath("page.html").read_text(encoding="utf-8")
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        page = environment.from_string(template).render(report=self, pictures=pictures, encoded=encoded)
        place = folder / "index.html"
        place.write_text(page, encoding="utf-8")
        return place


def make_report(comparison: Comparison, record: Record, folder: Path, source: str) -> Report:
    """Reads what the comparison needs besides its runs; files on their way lie in `folder`."""
    same = same_options(comparison.options, record, folder)
    return Report(
        comparison=comparison,
        table=comparison.table(same),
        same=same,
        drawn=comparison.drawn(record),
        samples=_samples(comparison, record, folder),
        source=source,
    )


def _samples(comparison: Comparison, record: Record, folder: Path) -> Image.Image | None:
    """The options' sample grids, of each its first run's at the highest guidance scale that all have."""
    runs = {row.option.name: row.option.finished[0] for row in comparison.rows[:MOST]}
    names = [
        {entry.path for entry in record.client.list_artifacts(run.id) if entry.path.startswith("samples_guidance_")}
        for run in runs.values()
    ]
    common = sorted(set.intersection(*names), key=lambda name: float(Path(name).stem.rpartition("_")[2]))
    if not common:
        return None
    return sheet({name: record.file(run, common[-1], folder) for name, run in runs.items()})
