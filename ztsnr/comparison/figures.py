"""The figures of a comparison. An option has the same colour and dashes in all of them."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ztsnr.analysis.plots import COLOURS, STYLES, plot_levels, set_sigma_axis
from ztsnr.comparison.curves import Point, error_by_sigma
from ztsnr.comparison.measures import MEASURES, Measure
from ztsnr.comparison.options import Option
from ztsnr.comparison.ranking import RankedOption

MAX_CURVES = len(COLOURS) * len(STYLES)
"""The number of options that one figure can distinguish; of more options it shows the best."""
ROW_HEIGHT_IN = 0.45
LOG_AXIS_RATIO = 8
"""An axis is logarithmic if the ratio of its largest to its smallest value exceeds this."""
LEGEND_STYLE = {"loc": "outside lower center", "ncols": 3, "frameon": False, "handlelength": 4}

Style = dict[str, str]
"""Arguments of matplotlib's plot."""


class CaptionedFigure(NamedTuple):
    title: str
    caption: str
    figure: Figure


def line_styles(ranked: Sequence[RankedOption]) -> dict[str, Style]:
    """Option name -> line style: the colour shows the value on the first axis, the dashes those on the others.

    If there are more values than colours or dashes, each option has a combination of its own instead.
    """
    options = [entry.option for entry in ranked[:MAX_CURVES]]
    first_values = list(dict.fromkeys(_axis_values(option)[0] for option in options))
    other_values = list(dict.fromkeys(_axis_values(option)[1] for option in options))

    if len(first_values) <= len(COLOURS) and len(other_values) <= len(STYLES):
        pairs = []
        for option in options:
            first, others = _axis_values(option)
            pairs.append((COLOURS[first_values.index(first)], STYLES[other_values.index(others)]))
    else:
        pairs = [(colour, style) for style, colour in product(STYLES, COLOURS)]

    styles = {}
    for option, (colour, style) in zip(options, pairs, strict=False):
        styles[option.name] = {"color": colour, "linestyle": style}
    return styles


def _axis_values(option: Option) -> tuple[str, tuple[str, ...]]:
    """The value on the first axis, and the values on the others."""
    first, *others = list(option.values.values()) or [""]
    return first, tuple(others)


def plot_values(ranked: Sequence[RankedOption], measure: Measure, baseline: Option) -> CaptionedFigure:
    figure = Figure(figsize=(9, 1.2 + ROW_HEIGHT_IN * len(ranked)), layout="constrained")
    panel = figure.subplots()
    styles = line_styles(ranked)
    for row, entry in enumerate(ranked):
        colour = styles.get(entry.option.name, {}).get("color", "0.4")
        mean = entry.value.mean
        half_width = 0 if math.isnan(entry.value.half_width) else entry.value.half_width
        seeds = list(entry.option.by_seed(measure).values())
        panel.errorbar(mean, row, xerr=half_width, fmt="o", color=colour, capsize=4, markersize=6)
        panel.plot(seeds, [row] * len(seeds), "|", color="black", markersize=9, alpha=0.6)
        if entry.option is baseline:
            panel.axvline(mean, color="0.7", linestyle=":", zorder=0)

    panel.set_yticks(range(len(ranked)), [entry.option.name for entry in ranked])
    panel.set_ylim(len(ranked) - 0.4, -0.6)
    panel.set_xlabel(measure.title)
    if needs_log_axis([entry.value.mean for entry in ranked]):
        panel.set_xscale("log")
    _hide_frame(panel)
    caption = "Dots: means over seeds with their 95 % intervals. Strokes: single seeds. Dotted: the baseline."
    return CaptionedFigure(f"Options by {measure.title}", caption, figure)


def plot_error_by_sigma(ranked: Sequence[RankedOption], baseline: Option) -> CaptionedFigure:
    """The error at each level, and its ratio to the baseline's."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    absolute, relative = figure.subplots(1, 2)
    reference = error_by_sigma(baseline)
    for name, style in line_styles(ranked).items():
        errors = error_by_sigma(_option_named(name, ranked))
        line = style | {"label": name}
        plot_levels(absolute, torch.tensor(list(errors)), torch.tensor(list(errors.values())), line)

        ratios = {sigma: error / reference[sigma] for sigma, error in errors.items() if sigma in reference}
        plot_levels(relative, torch.tensor(list(ratios)), torch.tensor(list(ratios.values())), line)

    absolute.set(yscale="log", ylabel="squared error of v, held-out")
    relative.set(yscale="log", ylabel=f"error / that of {baseline.name}")
    relative.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    for panel in (absolute, relative):
        set_sigma_axis(panel)
    figure.legend(*absolute.get_legend_handles_labels(), **LEGEND_STYLE)
    caption = "Means over seeds. Left: the error at each noise level. Right: below 1 is better than the baseline there."
    return CaptionedFigure("Error by noise level", caption, figure)


def plot_learning_curves(ranked: Sequence[RankedOption], curves: Mapping[str, Sequence[Point]]) -> CaptionedFigure:
    """curves: option name -> its held-out errors."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    by_samples, by_time = figure.subplots(1, 2, sharey=True)
    for name, style in line_styles(ranked).items():
        points = [point for point in curves[name] if point.step > 0]
        values = [point.value for point in points]
        batch_size = int(_option_named(name, ranked).finished[0].settings.get("trainer.batch_size", 1))
        thousands = [point.step * batch_size / 1000 for point in points]
        by_samples.plot(thousands, values, marker=".", label=name, **style)
        by_time.plot([point.seconds for point in points], values, marker=".", label=name, **style)

    by_samples.set(xlabel="samples seen, thousands", ylabel="held-out error of v", yscale="log")
    by_time.set(xlabel="seconds since the start of the run")
    for panel in (by_samples, by_time):
        _hide_frame(panel)
    figure.legend(*by_samples.get_legend_handles_labels(), **LEGEND_STYLE)
    return CaptionedFigure("Learning curves", "Means over seeds, from the first validation after the start.", figure)


def plot_guidance(ranked: Sequence[RankedOption]) -> CaptionedFigure | None:
    """Sample quality by guidance scale, a panel for each measure; None if no quality was measured."""
    scales = {}
    for measure in MEASURES.values():
        measured_scales = _guidance_scales(ranked, measure) if measure.has_guidance else []
        if measured_scales:
            scales[measure] = measured_scales
    if not scales:
        return None

    rows = math.ceil(len(scales) / 2)
    figure = Figure(figsize=(10, 3.9 * rows), layout="constrained")
    panels = list(figure.subplots(rows, 2, squeeze=False).flat)
    for panel, measure in zip(panels, scales, strict=False):
        for name, style in line_styles(ranked).items():
            option = _option_named(name, ranked)
            values = [option.mean(measure.at_guidance(scale)) for scale in scales[measure]]
            panel.plot(scales[measure], values, marker=".", label=name, **style)
        better = "less" if measure.sign > 0 else "more"
        panel.set(xlabel="guidance scale", ylabel=f"{measure.title} ({better} is better)")
        _hide_frame(panel)
    for panel in panels[len(scales) :]:
        panel.remove()

    figure.legend(*panels[0].get_legend_handles_labels(), **LEGEND_STYLE)
    caption = "Means over seeds. The best scale differs by option."
    return CaptionedFigure("Sample quality by guidance scale", caption, figure)


def _guidance_scales(ranked: Sequence[RankedOption], measure: Measure) -> list[float]:
    scales = set()
    for entry in ranked:
        for name in entry.option.metric_names():
            if name.startswith(measure.metric):
                scales.add(float(name.removeprefix(measure.metric)))
    return sorted(scales)


def needs_log_axis(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) > LOG_AXIS_RATIO * min(values)


def _option_named(name: str, ranked: Sequence[RankedOption]) -> Option:
    return next(entry.option for entry in ranked if entry.option.name == name)


def _hide_frame(panel: Axes) -> None:
    panel.spines[["top", "right"]].set_visible(False)
