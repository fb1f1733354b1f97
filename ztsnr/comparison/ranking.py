"""A comparison: options ranked by a measure, and what it says in words, numbers and figures."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from ztsnr.analysis.summary import Summary, same_objectives
from ztsnr.comparison import figures
from ztsnr.comparison.options import MEASURES, Estimate, Measure, Option, Row, options_of, rank, refuse_mixed
from ztsnr.comparison.runs import Point, Record, Run
from ztsnr.config.names import upgrade
from ztsnr.config.registry import build_from_file
from ztsnr.core.errors import ConfigError, ZtsnrError
from ztsnr.core.objective import Objective

PARTS = ("schedule", "target", "weighting", "distance")


@dataclass(frozen=True)
class Comparison:
    runs: Sequence[Run]
    measure: Measure
    baseline_name: str | None
    """None: the option that was tried first, of those that can be ranked."""

    def __post_init__(self):
        refuse_mixed(self.runs, self.measure)
        if not self.rows:
            told = next((f": {option.message}" for option in self.options if option.message), "")
            raise ConfigError(f"None of {len(self.runs)} runs has a {self.measure.title} to be ranked by{told}")

    @cached_property
    def options(self) -> list[Option]:
        return options_of(self.runs)

    @cached_property
    def baseline(self) -> Option:
        ranked = [option for option in self.options if option.by_seed(self.measure)]
        if self.baseline_name is None:
            return (ranked or self.options)[0]
        found = [option for option in ranked if option.name == self.baseline_name]
        if not found:
            names = ", ".join(repr(option.name) for option in ranked)
            raise ConfigError(f"baseline must be one of the options that finished, {names}, got {self.baseline_name!r}")
        return found[0]

    @cached_property
    def rows(self) -> list[Row]:
        return rank(self.options, self.measure, self.baseline)

    @property
    def unranked(self) -> list[Option]:
        ranked = [row.option for row in self.rows]
        return sorted((o for o in self.options if o not in ranked), key=lambda option: option.outcome)

    @property
    def question(self) -> str:
        axes = list(self.options[0].values) or ["seed"]
        return f"Which {' and '.join([', '.join(axes[:-1])] * (len(axes) > 1) + axes[-1:])}?"

    @property
    def answer(self) -> str:
        best, *others = self.rows
        tied = [row.option.name for row in others if not row.lag.is_apart]
        told = f"{best.option.name}: {self.measure.title} {written(best.value, self.digits)}"
        if not others:
            return f"{told}. It is the only option that finished"
        if all(row.lag.count < 2 for row in others):
            return f"{told}. With one seed each, differences have no interval"
        return f"{told}. " + (f"Not told apart from it: {', '.join(tied)}" if tied else "All others are worse")

    @property
    def digits(self) -> int:
        return digits_for(self.rows[0].value.mean)

    def table(self, same: Sequence[Sequence[str]]) -> list[dict]:
        """A row an option, the best first: numbers and words for scripts and for readers."""
        return [self._cells(row.option, row, same) for row in self.rows] + [
            self._cells(option, None, same) for option in self.unranked
        ]

    def _cells(self, option: Option, row: Row | None, same: Sequence[Sequence[str]]) -> dict:
        alike = [name for group in same if option.name in group for name in group if name != option.name]
        cells: dict[str, object] = {"option": option.name, **option.values, "seeds": len(option.finished)}
        for name, found in (("value", row and row.value), ("difference", row and row.difference)):
            cells |= {name: found.mean if found else math.nan, f"{name}_interval": found.half if found else math.nan}
        cells["apart"] = bool(row and row.difference and row.difference.is_apart)
        for name, measure in MEASURES.items():
            metric = option.metric_of(measure)
            cells[name] = option.mean(metric)
            if measure.group == "quality":
                cells[f"{name}_guidance"] = float(metric.rpartition("_")[2]) if metric else math.nan
        cells |= {"seconds": option.mean("usage/train_seconds"), "memory_gib": option.mean("usage/peak_memory_gib")}
        return cells | {"same_objective": alike, "outcome": option.outcome, "message": option.message}

    def drawn(self, record: Record) -> dict[str, figures.Drawn]:
        def curve(option: Option) -> list[Point]:
            return mean_curve([record.curve(run, MEASURES["score"].metric) for run in option.finished])

        found = {
            "options": figures.scores(self.rows, self.measure, self.baseline),
            "heat_map": figures.heat_map(self.options, self.measure),
            "error_by_sigma": figures.error_by_sigma(self.rows, self.baseline),
            "learning_curves": figures.learning_curves(self.rows, curve),
            "guidance": figures.guidance_curves(self.rows),
        }
        return {name: drawn for name, drawn in found.items() if drawn}


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """Over seeds, at the steps that all of them have."""
    at: dict[int, list[Point]] = defaultdict(list)
    for point in (point for curve in curves for point in curve):
        at[point.step].append(point)
    return [
        Point(step, *(math.fsum(values) / len(points) for values in list(zip(*points, strict=True))[1:]))
        for step, points in sorted(at.items())
        if len(points) == len(curves)
    ]


def same_options(options: Sequence[Option], record: Record, folder: Path) -> list[list[str]]:
    """Names of options whose objectives train alike, as the configs that their runs left say."""
    summaries = {}
    for option in options:
        file = record.file(option.finished[0], "config.yaml", folder) if option.finished else None
        if file is None:
            continue
        config = upgrade(yaml.safe_load(file.read_text()))
        try:
            objective = Objective(**{part: build_from_file(config[part], file) for part in PARTS}, normalise=False)
        except ZtsnrError:  # a plug-in that is not here: of it nothing is known
            continue
        rest = {name: value for name, value in option.values.items() if name.split(".")[0] not in (*PARTS, "loss")}
        summaries.setdefault(repr(rest), {})[option.name] = Summary(objective=objective, steps=1, count=2**14)
    return [group for alike in summaries.values() for group in same_objectives(alike)]


def digits_for(value: float) -> int:
    """Decimals that show four digits of it: a column of numbers has one number of them."""
    return max(0, 3 - math.floor(math.log10(abs(value)))) if value and math.isfinite(value) else 4


def written(estimate: Estimate, digits: int, sign: str = "") -> str:
    """0.3021 ± 0.0042"""
    if math.isnan(estimate.mean):
        return "-"
    number = f"{estimate.mean:{sign}.{digits}f}"
    return number if math.isnan(estimate.half) else f"{number} ± {estimate.half:.{digits}f}"
