"""The result of a comparison: a question, its answer and a table of numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ztsnr.comparison.measures import MEASURES, Measure
from ztsnr.comparison.options import Option, group_by_option
from ztsnr.comparison.ranking import RankedOption, rank, require_same_measurement
from ztsnr.comparison.runs import Run
from ztsnr.comparison.statistics import Estimate, decimals_for, format_estimate
from ztsnr.core.errors import ConfigError

NOTHING = Estimate(math.nan, math.nan, 0)


@dataclass(frozen=True)
class Comparison:
    runs: Sequence[Run]
    measure: Measure
    baseline_name: str | None
    """None: the option that was tried first among those that can be ranked."""

    def __post_init__(self) -> None:
        require_same_measurement(self.runs, self.measure)
        if not self.ranked:
            reason = next((f": {option.message}" for option in self.options if option.message), "")
            raise ConfigError(f"None of {len(self.runs)} runs has a {self.measure.title} to be ranked by{reason}")

    @cached_property
    def options(self) -> list[Option]:
        return group_by_option(self.runs)

    @cached_property
    def baseline(self) -> Option:
        measured = [option for option in self.options if option.by_seed(self.measure)]
        if self.baseline_name is None:
            return (measured or self.options)[0]
        for option in measured:
            if option.name == self.baseline_name:
                return option
        names = ", ".join(repr(option.name) for option in measured)
        raise ConfigError(f"baseline must be one of the options that finished, {names}, got {self.baseline_name!r}")

    @cached_property
    def ranked(self) -> list[RankedOption]:
        return rank(self.options, self.measure, self.baseline)

    @property
    def unranked(self) -> list[Option]:
        ranked = [entry.option for entry in self.ranked]
        unranked = [option for option in self.options if option not in ranked]
        return sorted(unranked, key=lambda option: option.outcome)

    @property
    def question(self) -> str:
        """For example: Which schedule, loss and seed?"""
        *axes, last = list(self.options[0].values) or ["seed"]
        return f"Which {', '.join(axes)} and {last}?" if axes else f"Which {last}?"

    @property
    def answer(self) -> str:
        best, *others = self.ranked
        winner = f"{best.option.name}: {self.measure.title} {format_estimate(best.value, self.decimals)}"
        gaps = {entry.option.name: entry.gap_to_best or NOTHING for entry in others}
        if not gaps:
            return f"{winner}. It is the only option that finished"
        if all(gap.count < 2 for gap in gaps.values()):
            return f"{winner}. With one seed each, differences have no interval"
        tied = [name for name, gap in gaps.items() if not gap.excludes_zero]
        if tied:
            return f"{winner}. Not significantly different from it: {', '.join(tied)}"
        return f"{winner}. All others are worse"

    @property
    def decimals(self) -> int:
        """The decimals of the numbers in the measure's column."""
        return decimals_for(self.ranked[0].value.mean)

    def table(self, same_objectives: Sequence[Sequence[str]]) -> list[dict]:
        """A row for each option, the best first, for scripts and for readers.

        same_objectives: groups of names of options whose objectives are the same.
        """
        rows = []
        for entry in self.ranked:
            rows.append(self._row(entry.option, entry.value, entry.difference or NOTHING, same_objectives))
        for option in self.unranked:
            rows.append(self._row(option, NOTHING, NOTHING, same_objectives))
        return rows

    def _row(
        self, option: Option, value: Estimate, difference: Estimate, same_objectives: Sequence[Sequence[str]]
    ) -> dict:
        row: dict[str, object] = {"option": option.name, **option.values, "seeds": len(option.finished)}
        row |= {"value": value.mean, "value_interval": value.half_width}
        row |= {"difference": difference.mean, "difference_interval": difference.half_width}
        row["apart"] = difference.excludes_zero

        for name, measure in MEASURES.items():
            metric = option.metric_of(measure)
            row[name] = option.mean(metric)
            if measure.has_guidance:
                row[f"{name}_guidance"] = float(metric.rpartition("_")[2]) if metric else math.nan

        row["seconds"] = option.mean("usage/train_seconds")
        row["memory_gib"] = option.mean("usage/peak_memory_gib")
        row["same_objective"] = _others_in_group(option.name, same_objectives)
        row["outcome"] = option.outcome
        row["message"] = option.message
        return row


def _others_in_group(name: str, groups: Sequence[Sequence[str]]) -> list[str]:
    others = []
    for group in groups:
        if name in group:
            others += [other for other in group if other != name]
    return others
