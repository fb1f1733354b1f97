"""The report on a comparison: a table in the terminal, one self-contained HTML page, and files for scripts."""

import base64
import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from PIL import Image
from rich.console import Console

from ztsnr.comparison.comparison import Comparison
from ztsnr.comparison.figures import MAX_CURVES, CaptionedFigure
from ztsnr.comparison.measures import MEASURES
from ztsnr.comparison.statistics import Estimate, format_estimate
from ztsnr.io.console import make_table

MIN_SEEDS = 3
"""With fewer seeds the report warns that intervals are wide."""
EXTRA_COLUMNS = {"score": "score", "frechet": "Fréchet", "accuracy": "accuracy"}
"""Measures shown besides the one that ranks -> their column heads."""


@dataclass(frozen=True)
class ComparisonReport:
    comparison: Comparison
    table: list[dict]
    """Comparison.table."""
    figures: Mapping[str, CaptionedFigure]
    """File name -> figure."""
    samples: Image.Image | None
    command: str
    """The command line that repeats the report."""

    @property
    def head(self) -> list[str]:
        difference = f"- {self.comparison.baseline.name}"
        extra = [EXTRA_COLUMNS[name] for name in self._extra_columns()]
        return ["", self.comparison.measure.title, difference, *extra, "seconds", "GiB", "seeds", ""]

    @property
    def rows(self) -> list[list[str]]:
        """The cells below `head`, the ranked options first."""
        return [self._cells(row) for row in self.table]

    def _extra_columns(self) -> list[str]:
        """The extra columns in which some option has a value."""
        names = []
        for name in EXTRA_COLUMNS:
            is_ranked_by = MEASURES[name] is self.comparison.measure
            if not is_ranked_by and not all(math.isnan(row[name]) for row in self.table):
                names.append(name)
        return names

    def _cells(self, row: Mapping) -> list[str]:
        decimals = self.comparison.decimals
        value = Estimate(row["value"], row["value_interval"], row["seeds"])
        difference = Estimate(row["difference"], row["difference_interval"], row["seeds"])
        cells = [row["option"], format_estimate(value, decimals)]

        if row["option"] == self.comparison.baseline.name:
            cells.append("baseline")
        else:
            cells.append(format_estimate(difference, decimals, sign="+") + (" *" if row["apart"] else ""))
        for name in (*self._extra_columns(), "seconds", "memory_gib"):
            cells.append(_number(row, name))
        cells.append(str(row["seeds"]))
        cells.append(_remarks(row))
        return cells

    @property
    def notes(self) -> list[str]:
        ranked = self.comparison.ranked
        notes = []
        if any(row["apart"] for row in self.table):
            notes.append("* differs from the baseline: 95 % intervals, paired by seed, simultaneously for all rows.")
        if min(entry.value.count for entry in ranked) < MIN_SEEDS:
            notes.append(f"Intervals over fewer than {MIN_SEEDS} seeds are very wide. Run more seeds.")
        if len(ranked) > MAX_CURVES:
            notes.append(f"Figures of lines show the best {MAX_CURVES} of {len(ranked)} options.")
        return notes

    def print_to(self, console: Console) -> None:
        ranked_count = len(self.comparison.ranked)
        table = make_table(*self.head)
        table.columns[-1].justify = "left"
        for cells in self.rows[:ranked_count]:
            table.add_row(*cells)

        console.print(f"[bold]{self.comparison.question}[/]  {self.comparison.answer}")
        console.print(table)
        for cells in self.rows[ranked_count:]:
            console.print(f"[bold]{cells[0]}[/]  {cells[-1]}")
        for note in self.notes:
            console.print(note)

    def markdown(self) -> str:
        lines = [f"**{self.comparison.question}** {self.comparison.answer}", ""]
        lines.append(f"| {' | '.join(self.head)} |")
        lines.append("|" + "---|" * len(self.head))
        lines += [f"| {' | '.join(cells)} |" for cells in self.rows]
        lines += ["", *self.notes, f"`{self.command}`, with figures in the artifacts: comparison/"]
        return "\n".join(lines)

    def as_json(self) -> str:
        """NaN becomes null, since JSON lacks it."""
        options = []
        for row in self.table:
            options.append({name: None if _is_nan(value) else value for name, value in row.items()})
        content = {
            "question": self.comparison.question,
            "answer": self.comparison.answer,
            "measure": self.comparison.measure.metric,
            "baseline": self.comparison.baseline.name,
            "options": options,
        }
        return json.dumps(content, indent=1)

    def as_csv(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.table[0]), lineterminator="\n")
        writer.writeheader()
        for row in self.table:
            writer.writerow(row | {"same_objective": "; ".join(row["same_objective"])})
        return text.getvalue()

    def write(self, folder: Path) -> Path:
        """Writes the page, its images and the table to `folder`; returns the path of the page."""
        captions = {}
        for name, (title, caption, figure) in self.figures.items():
            figure.savefig(folder / f"{name}.png", dpi=140)
            captions[name] = (title, caption)
        if self.samples:
            self.samples.save(folder / "samples.png")
            caption = "One row per class, one column per seed. The noise is the same for every option."
            captions["samples"] = ("Samples", caption)
        (folder / "table.csv").write_text(self.as_csv(), encoding="utf-8")
        (folder / "table.json").write_text(self.as_json(), encoding="utf-8")

        page = folder / "index.html"
        page.write_text(self._page(folder, captions), encoding="utf-8")
        return page

    def _page(self, folder: Path, captions: Mapping[str, tuple[str, str]]) -> str:
        """The HTML, with the images of `folder` embedded."""
        images = {}
        for name in captions:
            image = (folder / f"{name}.png").read_bytes()
            images[name] = base64.b64encode(image).decode()
        template = files("ztsnr.comparison").joinpath("page.html").read_text(encoding="utf-8")
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        return environment.from_string(template).render(report=self, captions=captions, images=images)


def _number(row: Mapping, name: str) -> str:
    """The number, with its guidance scale if it has one."""
    if math.isnan(row[name]):
        return "-"
    guidance = row.get(f"{name}_guidance")
    return f"{row[name]:.3g}" if guidance is None else f"{row[name]:.3g} at {guidance:g}"


def _remarks(row: Mapping) -> str:
    """Options with the same objective, and why runs did not finish."""
    remarks = []
    if row["same_objective"]:
        remarks.append(f"same as {', '.join(row['same_objective'])}")
    if row["outcome"]:
        reason = row["message"].split(". ")[0]
        remarks.append(f"{row['outcome']}: {reason}" if reason else row["outcome"])
    return "; ".join(remarks)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
