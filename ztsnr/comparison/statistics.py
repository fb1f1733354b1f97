"""Means over seeds with confidence intervals, and paired differences."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.stats import t as student

CONFIDENCE_LEVEL = 0.95


class Estimate(NamedTuple):
    """The mean of `count` values, and half the width of its confidence interval: nan for a single value."""

    mean: float
    half_width: float
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes zero."""
        return abs(self.mean) > self.half_width


def estimate_mean(values: Sequence[float], level: float = CONFIDENCE_LEVEL) -> Estimate:
    """Student's interval for the mean of independent normal values."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Estimate(mean, math.nan, count)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half_width = float(student.ppf((1 + level) / 2, count - 1)) * deviation / math.sqrt(count)
    return Estimate(mean, half_width, count)


def paired_difference(values: Mapping[tuple, float], reference: Mapping[tuple, float], comparisons: int) -> Estimate:
    """The mean of values - reference over the seeds that both have.

    The intervals of `comparisons` such differences hold simultaneously (Bonferroni).
    """
    differences = [value - reference[seeds] for seeds, value in values.items() if seeds in reference]
    if not differences:
        return Estimate(math.nan, math.nan, 0)
    return estimate_mean(differences, 1 - (1 - CONFIDENCE_LEVEL) / comparisons)


def format_estimate(estimate: Estimate, decimals: int, sign: str = "") -> str:
    """For example 0.3021 ± 0.0042. sign: "+" also marks positive numbers."""
    if math.isnan(estimate.mean):
        return "-"
    mean = f"{estimate.mean:{sign}.{decimals}f}"
    if math.isnan(estimate.half_width):
        return mean
    return f"{mean} ± {estimate.half_width:.{decimals}f}"


def decimals_for(value: float) -> int:
    """The number of decimals that shows four digits of `value`."""
    if value == 0 or not math.isfinite(value):
        return 4
    return max(0, 3 - math.floor(math.log10(abs(value))))
