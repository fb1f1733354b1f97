"""Groups runs into options: which settings distinguish them, and what their seeds measured."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ztsnr.comparison.measures import Measure
from ztsnr.comparison.runs import Run
from ztsnr.config.identity import FINISHED, INCOMPATIBLE, SEED_KEYS

VALIDATION_DATA_KEYS = ("data", "data.held_out")
"""Settings of the validation data. Runs that are ranked together must agree on them."""
NON_AXIS_GROUPS = ("validation", "quality", "samples", "sampler")
"""Groups that say how a run is measured and shown. Their settings distinguish options only if they are swept."""


@dataclass(frozen=True)
class Option:
    """One combination of the settings that vary, with its runs, which differ only in their seeds."""

    values: Mapping[str, str]
    """Setting -> value, for the settings that vary."""
    runs: Sequence[Run]

    @property
    def name(self) -> str:
        """For example: sdxl vpred trainer.steps=5"""
        return " ".join(value if key.isidentifier() else f"{key}={value}" for key, value in self.values.items())

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.outcome == FINISHED]

    @property
    def outcome(self) -> str:
        """The outcomes of the runs that did not finish: '', 'incompatible', '1 of 3 failed', ..."""
        outcomes = [run.outcome for run in self.runs if run.outcome != FINISHED]
        if len(outcomes) == len(self.runs) and set(outcomes) == {INCOMPATIBLE}:
            return INCOMPATIBLE
        counts = {outcome: outcomes.count(outcome) for outcome in outcomes}
        return ", ".join(f"{count} of {len(self.runs)} {outcome}" for outcome, count in counts.items())

    @property
    def message(self) -> str:
        """The message of its first run that did not finish."""
        return next((run.message for run in self.runs if run.outcome != FINISHED), "")

    def metric_names(self) -> set[str]:
        names: set[str] = set()
        for run in self.finished:
            names.update(run.metrics)
        return names

    def mean(self, metric: str) -> float:
        """The mean over the finished runs that have the metric; nan if none has."""
        values = [run.metrics[metric] for run in self.finished if metric in run.metrics]
        return math.fsum(values) / len(values) if values else math.nan

    def metric_of(self, measure: Measure) -> str:
        """The metric's full name, at the guidance scale with the best mean."""
        if not measure.has_guidance:
            return measure.metric
        names = sorted(name for name in self.metric_names() if name.startswith(measure.metric))
        return min(names, key=lambda name: measure.sign * self.mean(name), default="")

    def by_seed(self, measure: Measure) -> dict[tuple, float]:
        """Seeds -> value, for the finished runs with a finite value."""
        metric = self.metric_of(measure)
        values = {}
        for run in self.finished:
            seeds = tuple(run.settings.get(key) for key in SEED_KEYS)
            values[seeds] = run.metrics.get(metric, math.nan)
        return {seeds: value for seeds, value in values.items() if math.isfinite(value)}


def group_by_option(runs: Sequence[Run]) -> list[Option]:
    """Options in the order in which they were first tried."""
    axes = axes_of(runs)
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        values = tuple(run.settings.get(axis, "-") for axis in axes)
        groups[values].append(run)
    return [Option(dict(zip(axes, values, strict=True)), runs) for values, runs in groups.items()]


def axes_of(runs: Sequence[Run]) -> list[str]:
    """The fewest settings, without seeds, that distinguish the runs; swept settings come first.

    A setting that follows from earlier ones, such as a parameter of a chosen option, is not an axis.
    """
    axes: list[str] = []
    for key in keys_of(runs):
        if key in (*SEED_KEYS, *VALIDATION_DATA_KEYS) or key.split(".")[0] in NON_AXIS_GROUPS:
            continue
        # Among runs that agree on the axes so far, does this setting vary?
        values: dict[tuple, set[str]] = defaultdict(set)
        for run in runs:
            if key in run.settings:
                values[tuple(run.settings.get(axis) for axis in axes)].add(run.settings[key])
        if any(len(different) > 1 for different in values.values()):
            axes.append(key)
    return axes


def keys_of(runs: Sequence[Run]) -> list[str]:
    """The settings that any run has, in the order of their first occurrence."""
    keys: dict[str, None] = {}
    for run in runs:
        keys |= dict.fromkeys(run.settings)
    return list(keys)
