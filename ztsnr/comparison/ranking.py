"""Ranks options by a measure, with their differences from a baseline and from the best."""

from collections.abc import Sequence
from dataclasses import dataclass

from ztsnr.comparison.measures import Measure
from ztsnr.comparison.options import VALIDATION_DATA_KEYS, Option, keys_of
from ztsnr.comparison.runs import Run
from ztsnr.comparison.statistics import Estimate, estimate_mean, paired_difference
from ztsnr.config.identity import FINISHED, TAGGED_GROUPS
from ztsnr.core.errors import ConfigError


@dataclass(frozen=True)
class RankedOption:
    """An option in a ranking. The interval of a difference is nan without two common seeds."""

    option: Option
    value: Estimate
    """Of the measure."""
    difference: Estimate | None
    """To the baseline; None for the baseline itself."""
    gap_to_best: Estimate | None
    """The difference to the best; None for the best itself."""


def rank(options: Sequence[Option], measure: Measure, baseline: Option) -> list[RankedOption]:
    """The best first; options without a value are left out.

    The intervals of all differences to one option hold simultaneously.
    """
    by_seed = {option.name: option.by_seed(measure) for option in options}
    value = {name: estimate_mean(list(values.values())) for name, values in by_seed.items() if values}
    measured = [option for option in options if option.name in value]
    measured.sort(key=lambda option: measure.sign * value[option.name].mean)

    def difference(option: Option, reference: Option) -> Estimate | None:
        if option is reference:
            return None
        return paired_difference(by_seed[option.name], by_seed[reference.name], len(measured) - 1)

    ranked = []
    for option in measured:
        to_baseline = difference(option, baseline)
        to_best = difference(option, measured[0])
        ranked.append(RankedOption(option, value[option.name], to_baseline, to_best))
    return ranked


def require_same_measurement(runs: Sequence[Run], measure: Measure) -> None:
    """Raises ConfigError for runs that were measured in different ways, since their numbers are not comparable."""
    finished = [run for run in runs if run.outcome == FINISHED]
    for key in sorted(keys_of(finished)):
        if key.split(".")[0] != measure.group and key not in VALIDATION_DATA_KEYS:
            continue
        first_run: dict[str | None, Run] = {}  # of each value
        for run in finished:
            first_run.setdefault(run.settings.get(key), run)
        if len(first_run) > 1:
            (one, one_run), (other, other_run), *_ = first_run.items()
            kind = "tags" if key in TAGGED_GROUPS else "params"
            raise ConfigError(
                f"These runs were measured differently and cannot be ranked together: {key} is {one} in "
                f"{one_run.name!r} and {other} in {other_run.name!r}. "
                f"Choose one kind: \"filter={kind}.\\`{key}\\` = '{one}'\""
            )
