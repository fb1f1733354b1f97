"""The figures of a comparison. An option looks the same in all of them: a colour for its value on the first axis."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from ztsnr.analysis.plots import COLOURS, STYLES, draw_line, set_sigma_axis
from ztsnr.comparison.options import MEASURES, Measure, Option, Row, estimate
from ztsnr.comparison.runs import Point

MOST = len(COLOURS) * len(STYLES)
"""Options that can be told apart in one figure; of more, the best are drawn."""
LOOSE = 0.45
"""Height of a row in inches."""
LEGEND = {"loc": "outside lower center", "ncols": 3, "frameon": False, "handlelength": 4}
WIDE = 8
"""Ratio of the largest value to the least from which an axis is logarithmic."""


class Drawn(NamedTuple):
    title: str
    caption: str
    figure: Figure


Curve = Callable[[Option], list[Point]]


def looks_of(rows: Sequence[Row]) -> dict[str, dict]:
    """Option -> how its line is drawn: colour by the first axis, dashes by the others, where these suffice."""
    options = [row.option for row in rows[:MOST]]
    firsts = dict.fromkeys(next(iter(option.values.values()), "") for option in options)
    rests = dict.fromkeys(tuple(option.values.values())[1:] for option in options)
    if len(firsts) > len(COLOURS) or len(rests) > len(STYLES):
        pairs = [(colour, style) for style, colour in product(STYLES, COLOURS)]
    else:
        colours, styles = dict(zip(firsts, COLOURS, strict=False)), dict(zip(rests, STYLES, strict=False))
        pairs = [(colours[next(iter(o.values.values()), "")], styles[tuple(o.values.values())[1:]]) for o in options]
    return {o.name: {"color": c, "linestyle": s} for o, (c, s) in zip(options, pairs, strict=False)}


def scores(rows: Sequence[Row], measure: Measure, baseline: Option) -> Drawn:
    figure = Figure(figsize=(9, 1.2 + LOOSE * len(rows)), layout="constrained")
    panel, looks = figure.subplots(), looks_of(rows)
    for place, row in enumerate(rows):
        colour = looks.get(row.option.name, {}).get("color", "0.4")
        seeds = list(row.option.by_seed(measure).values())
        half = 0 if math.isnan(row.value.half) else row.value.half
        panel.errorbar(row.value.mean, place, xerr=half, fmt="o", color=colour, capsize=4, markersize=6)
        panel.plot(seeds, [place] * len(seeds), "|", color="black", markersize=9, alpha=0.6)
        if row.option is baseline:
            panel.axvline(row.value.mean, color="0.7", linestyle=":", zorder=0)
    panel.set_yticks(range(len(rows)), [row.option.name for row in rows])
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set_xlabel(measure.title)
    if is_wide([row.value.mean for row in rows]):
        panel.set_xscale("log")
    panel.spines[["top", "right"]].set_visible(False)
    caption = "Dots: means over seeds with their 95 % intervals. Strokes: single seeds. Dotted: the baseline."
    return Drawn(f"Options by {measure.title}", caption, figure)


def heat_map(options: Sequence[Option], measure: Measure) -> Drawn | None:
    """Of the two axes with the most values; None where there is one alone. Means over all the others."""
    axes = {axis: list(dict.fromkeys(o.values[axis] for o in options)) for axis in options[0].values}
    wide, high = (sorted(axes, key=lambda axis: len(axes[axis]), reverse=True) + ["", ""])[:2]
    if not high or len(axes[high]) < 2:
        return None
    cells = torch.full((len(axes[high]), len(axes[wide])), math.nan, dtype=torch.float64)
    words = {}
    for (i, row), (j, column) in product(enumerate(axes[high]), enumerate(axes[wide])):
        here = [o for o in options if o.values[high] == row and o.values[wide] == column]
        values = [value for o in here for value in o.by_seed(measure).values()]
        cells[i, j] = estimate(values).mean if values else math.nan
        words[i, j] = f"{cells[i, j]:.4g}" if values else "\n".join({o.outcome.split(" ")[-1] for o in here}) or "-"
    figure = Figure(figsize=(2.5 + 1.3 * len(axes[wide]), 1.6 + 0.6 * len(axes[high])), layout="constrained")
    panel = figure.subplots()
    panel.set_facecolor("0.92")
    norm = "log" if is_wide(cells[~cells.isnan()].tolist()) else "linear"
    picture = panel.imshow(cells, norm=norm, cmap="cividis" if measure.sign < 0 else "cividis_r", aspect="auto")
    for (i, j), text in words.items():
        dark = brightness(picture, cells[i, j].item()) < 0.5
        panel.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
    panel.set_xticks(range(len(axes[wide])), axes[wide], rotation=20, ha="right")
    panel.set_yticks(range(len(axes[high])), axes[high])
    panel.set(xlabel=wide, ylabel=high)
    figure.colorbar(picture, label=measure.title)
    others = [axis for axis in axes if axis not in (wide, high)]
    caption = f"Means over seeds{' and ' + ', '.join(others) if others else ''}. Bright is better; grey has no value."
    return Drawn(f"{high} against {wide}", caption, figure)


def brightness(picture, value: float) -> float:
    """How bright a cell is, 0 to 1; one without a value is."""
    red, green, blue, _ = picture.cmap(picture.norm(value))
    return 1.0 if math.isnan(value) else 0.3 * red + 0.6 * green + 0.1 * blue


def is_wide(values: Sequence[float]) -> bool:
    """Whether they need a logarithmic axis."""
    return min(values) > 0 and max(values) > WIDE * min(values)


def error_by_sigma(rows: Sequence[Row], baseline: Option) -> Drawn:
    """The error at each level, and its ratio to the baseline's."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    absolute, relative = figure.subplots(1, 2)
    reference = errors_of(baseline)
    for row in rows[:MOST]:
        look = looks_of(rows)[row.option.name] | {"label": row.option.name}
        found = errors_of(row.option)
        draw_line(absolute, torch.tensor(list(found)), torch.tensor(list(found.values())), look)
        common = [sigma for sigma in found if sigma in reference]
        ratio = [found[sigma] / reference[sigma] for sigma in common]
        draw_line(relative, torch.tensor(common), torch.tensor(ratio), look)
    absolute.set(yscale="log", ylabel="squared error of v, held-out")
    relative.set(yscale="log", ylabel=f"error / that of {baseline.name}")
    relative.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    for panel in (absolute, relative):
        set_sigma_axis(panel)
    figure.legend(*absolute.get_legend_handles_labels(), **LEGEND)
    caption = "Means over seeds. Left: the error at each noise level. Right: below 1 is better than the baseline there."
    return Drawn("Error by noise level", caption, figure)


def errors_of(option: Option) -> dict[float, float]:
    """sigma -> mean error of the weights that were ranked, ascending."""
    runs = option.finished
    names = {name for run in runs for name in run.metrics if name.startswith(("error_ema/", "error_raw/"))}
    kind = "error_ema/" if any(name.startswith("error_ema/") for name in names) else "error_raw/"
    found = {float(name.rpartition("_")[2]): option.mean(name) for name in names if name.startswith(kind)}
    return dict(sorted(found.items()))


def learning_curves(rows: Sequence[Row], curve: Curve) -> Drawn:
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    by_samples, by_time = figure.subplots(1, 2, sharey=True)
    for row in rows[:MOST]:
        look = looks_of(rows)[row.option.name] | {"label": row.option.name}
        points = [point for point in curve(row.option) if point.step > 0]
        size = int(row.option.finished[0].settings.get("trainer.batch_size", 1))
        by_samples.plot([p.step * size / 1000 for p in points], [p.value for p in points], marker=".", **look)
        by_time.plot([p.seconds for p in points], [p.value for p in points], marker=".", **look)
    by_samples.set(xlabel="samples seen, thousands", ylabel="held-out error of v", yscale="log")
    by_time.set(xlabel="seconds since the start of the run")
    for panel in (by_samples, by_time):
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(*by_samples.get_legend_handles_labels(), **LEGEND)
    return Drawn("Learning curves", "Means over seeds, from the first validation after the start.", figure)


def guidance_curves(rows: Sequence[Row]) -> Drawn | None:
    """Each measure of sample quality against guidance scale; None where none was taken."""
    names = {name for row in rows for run in row.option.finished for name in run.metrics}
    shown = [m for m in MEASURES.values() if m.metric.endswith("_") and any(n.startswith(m.metric) for n in names)]
    if not shown:
        return None
    figure = Figure(figsize=(10, 3.9 * -(-len(shown) // 2)), layout="constrained")
    panels = figure.subplots(-(-len(shown) // 2), 2, squeeze=False).flat
    for panel, measure in zip(panels, shown, strict=False):
        scales = sorted(float(name.removeprefix(measure.metric)) for name in names if name.startswith(measure.metric))
        for row in rows[:MOST]:
            look = looks_of(rows)[row.option.name] | {"label": row.option.name}
            panel.plot(scales, [row.option.mean(f"{measure.metric}{s:05.2f}") for s in scales], marker=".", **look)
        better = "less" if measure.sign > 0 else "more"
        panel.set(xlabel="guidance scale", ylabel=f"{measure.title} ({better} is better)")
        panel.spines[["top", "right"]].set_visible(False)
    for panel in list(panels)[len(shown) :]:
        panel.remove()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), **LEGEND)
    return Drawn("Sample quality by guidance scale", "Means over seeds. The best scale differs by option.", figure)


def sheet(pictures: Mapping[str, Path], columns: int = 3, gap: int = 16) -> Image.Image:
    """Sample grids side by side under their options' names."""
    opened = {name: Image.open(path).convert("RGB") for name, path in pictures.items()}
    font = ImageFont.load_default(18)
    width = max(picture.width for picture in opened.values())
    height = max(picture.height for picture in opened.values()) + 30
    rows = -(-len(opened) // columns)
    page = Image.new("RGB", (min(columns, len(opened)) * (width + gap) + gap, rows * (height + gap) + gap), "white")
    draw = ImageDraw.Draw(page)
    for place, (name, picture) in enumerate(opened.items()):
        left, top = gap + place % columns * (width + gap), gap + place // columns * (height + gap)
        draw.text((left, top), name, "black", font)
        page.paste(picture, (left, top + 30))
    return page
