"""The options that runs tried, and what their seeds say of them."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scipy.stats import t as student

from ztsnr.comparison.runs import Run
from ztsnr.config.identity import CHOICES, FINISHED, INCOMPATIBLE, REPLICATES
from ztsnr.core.errors import ConfigError

HELD_OUT = ("data", "data.held_out")
"""Settings of what is measured on: the same for runs that are ranked together."""
NO_AXIS = ("validation", "quality", "samples", "sampler")
"""Groups of how a run is measured and shown; what is swept is an axis all the same."""
LEVEL = 0.95


class Estimate(NamedTuple):
    """A mean over `count` seeds, and half of its confidence interval: nan where one seed tells none."""

    mean: float
    half: float
    count: int

    @property
    def is_apart(self) -> bool:
        """Whether the interval leaves out 0."""
        return abs(self.mean) > self.half


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Student's interval for the mean of independent normal values."""
    count, mean = len(values), math.fsum(values) / len(values)
    if count < 2:
        return Estimate(mean, math.nan, count)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Estimate(mean, student.ppf((1 + level) / 2, count - 1) * deviation / math.sqrt(count), count)


@dataclass(frozen=True)
class Measure:
    """A number that ranks: a metric, or, of one that is taken at several guidance scales, its best."""

    metric: str
    title: str
    sign: int = 1
    """1 where less is better, -1 where more is."""
    group: str = "quality"
    """Whose settings must be the same for runs to be ranked together."""


MEASURES = {
    "score": Measure("error/score", "held-out error of v", group="validation"),
    "frechet": Measure("quality_frechet/guidance_", "Fréchet distance"),
    "precision": Measure("quality_precision/guidance_", "precision", -1),
    "recall": Measure("quality_recall/guidance_", "recall", -1),
    "accuracy": Measure("quality_accuracy/guidance_", "class accuracy", -1),
}


@dataclass(frozen=True)
class Option:
    """One combination of what was varied, with its runs, which differ in their seeds alone."""

    values: Mapping[str, str]
    runs: Sequence[Run]

    @property
    def name(self) -> str:
        return " ".join(value if key.isidentifier() else f"{key}={value}" for key, value in self.values.items())

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.outcome == FINISHED]

    @property
    def outcome(self) -> str:
        """What became of the runs that did not finish: '', 'incompatible', '1 of 3 failed', ..."""
        missed = [run.outcome for run in self.runs if run.outcome != FINISHED]
        if len(missed) == len(self.runs) and set(missed) == {INCOMPATIBLE}:
            return INCOMPATIBLE
        told = [f"{missed.count(what)} of {len(self.runs)} {what}" for what in dict.fromkeys(missed)]
        return ", ".join(told)

    @property
    def message(self) -> str:
        return next((run.message for run in self.runs if run.outcome != FINISHED), "")

    def mean(self, metric: str) -> float:
        values = [run.metrics[metric] for run in self.finished if metric in run.metrics]
        return math.fsum(values) / len(values) if values else math.nan

    def metric_of(self, measure: Measure) -> str:
        """The metric's full name: of several guidance scales, that with the best mean."""
        if not measure.metric.endswith("_"):
            return measure.metric
        names = sorted({name for run in self.finished for name in run.metrics if name.startswith(measure.metric)})
        return min(names, key=lambda name: measure.sign * self.mean(name), default="")

    def by_seed(self, measure: Measure) -> dict[tuple, float]:
        """Finite values of the finished runs, by all their seeds."""
        metric = self.metric_of(measure)
        found = {tuple(run.settings.get(key) for key in REPLICATES): run.metrics.get(metric) for run in self.finished}
        return {seeds: value for seeds, value in found.items() if value is not None and math.isfinite(value)}


def options_of(runs: Sequence[Run]) -> list[Option]:
    """In the order in which they were tried first."""
    axes, found = axes_of(runs), defaultdict(list)
    for run in runs:
        found[tuple(run.settings.get(axis, "-") for axis in axes)].append(run)
    return [Option(dict(zip(axes, values, strict=True)), runs) for values, runs in found.items()]


def axes_of(runs: Sequence[Run]) -> list[str]:
    """The fewest settings that tell the runs apart, seeds aside, those that were swept first.

    A setting that follows from those before it, as an option's own parameters do, is none.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    axes: list[str] = []
    for key in keys:
        if key in (*REPLICATES, *HELD_OUT) or key.split(".")[0] in NO_AXIS:
            continue
        seen: dict[tuple, set[str]] = defaultdict(set)
        for run in runs:
            if key in run.settings:
                seen[tuple(run.settings.get(axis) for axis in axes)].add(run.settings[key])
        if any(len(values) > 1 for values in seen.values()):
            axes.append(key)
    return axes


def refuse_mixed(runs: Sequence[Run], measure: Measure) -> None:
    """Refuses runs that were not measured in the same way: their numbers do not compare."""
    finished = [run for run in runs if run.outcome == FINISHED]
    for key in sorted({key for run in finished for key in run.settings}):
        if key.split(".")[0] != measure.group and key not in HELD_OUT:
            continue
        values: dict[str | None, Run] = {}
        for run in finished:
            values.setdefault(run.settings.get(key), run)
        if len(values) > 1:
            told = " and ".join(f"{value} in {run.name!r}" for value, run in list(values.items())[:2])
            kind = "tags" if key in CHOICES else "params"
            raise ConfigError(
                f"These runs were not measured alike and have no common ranking: {key} is {told}. "
                f"Choose one kind: \"filter={kind}.\\`{key}\\` = '{next(iter(values))}'\""
            )


@dataclass(frozen=True)
class Row:
    """An option's place in a ranking. `difference`: to the baseline; `lag`: to the best. None for itself, and without
    two common seeds their intervals are nan."""

    option: Option
    value: Estimate
    difference: Estimate | None
    lag: Estimate | None


def rank(options: Sequence[Option], measure: Measure, baseline: Option) -> list[Row]:
    """The best first. The intervals of the differences hold together, for all of them at once (Bonferroni)."""
    values = {option.name: option.by_seed(measure) for option in options}
    measured = [option for option in options if values[option.name]]
    measured.sort(key=lambda option: measure.sign * estimate(list(values[option.name].values())).mean)
    return [
        Row(
            option,
            estimate(list(values[option.name].values())),
            *(
                None if option is other else paired(values[option.name], values[other.name], len(measured) - 1)
                for other in (baseline, measured[0])
            ),
        )
        for option in measured
    ]


def paired(one: Mapping[tuple, float], other: Mapping[tuple, float], comparisons: int) -> Estimate:
    """Mean of one - other over common seeds, with an interval that holds for `comparisons` of them at once."""
    common = [value - other[seeds] for seeds, value in one.items() if seeds in other]
    return estimate(common, 1 - (1 - LEVEL) / comparisons) if common else Estimate(math.nan, math.nan, 0)
