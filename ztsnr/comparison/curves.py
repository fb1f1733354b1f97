"""Means over an option's seeds: learning curves, and errors by noise level."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from ztsnr.comparison.measures import MEASURES
from ztsnr.comparison.options import Option
from ztsnr.tracking.experiment import Experiment


class Point(NamedTuple):
    step: int
    seconds: float
    """Since the start of the run."""
    value: float


def learning_curve(option: Option, experiment: Experiment) -> list[Point]:
    """The held-out error of the option's finished runs."""
    curves = []
    for run in option.finished:
        history = experiment.history(run.id, MEASURES["score"].metric)
        curves.append([Point(point.step, (point.time - run.started) / 1000, point.value) for point in history])
    return mean_curve(curves)


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean of the curves at the steps that all of them have."""
    points_at: dict[int, list[Point]] = defaultdict(list)
    for curve in curves:
        for point in curve:
            points_at[point.step].append(point)

    mean = []
    for step, points in sorted(points_at.items()):
        if len(points) == len(curves):
            seconds = math.fsum(point.seconds for point in points) / len(points)
            value = math.fsum(point.value for point in points) / len(points)
            mean.append(Point(step, seconds, value))
    return mean


def error_by_sigma(option: Option) -> dict[float, float]:
    """sigma, ascending -> mean held-out error of the ranked weights, which are the EMA's if there is an EMA."""
    names = option.metric_names()
    kind = "error_ema/" if any(name.startswith("error_ema/") for name in names) else "error_raw/"
    errors = {}
    for name in names:
        if name.startswith(kind):
            sigma = float(name.rpartition("_")[2])
            errors[sigma] = option.mean(name)
    return dict(sorted(errors.items()))
