"""A heat map of a measure over the two settings with the most values."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ztsnr.comparison.figures import CaptionedFigure, needs_log_axis
from ztsnr.comparison.measures import Measure
from ztsnr.comparison.options import Option
from ztsnr.comparison.statistics import estimate_mean


def plot_heat_map(options: Sequence[Option], measure: Measure) -> CaptionedFigure | None:
    """Means over all other axes; None if fewer than two axes have several values."""
    values_of = {axis: _values_on(axis, options) for axis in options[0].values}
    by_count = sorted(values_of, key=lambda axis: len(values_of[axis]), reverse=True)
    if len(by_count) < 2 or len(values_of[by_count[1]]) < 2:
        return None
    column_axis, row_axis = by_count[:2]
    columns = values_of[column_axis]
    rows = values_of[row_axis]

    # cells: the mean, or why there is none
    cells = torch.full((len(rows), len(columns)), math.nan, dtype=torch.float64)
    labels = {}
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            here = [o for o in options if o.values[row_axis] == row and o.values[column_axis] == column]
            cells[i, j] = _mean(here, measure)
            labels[i, j] = _outcomes(here) if cells[i, j].isnan() else f"{cells[i, j]:.4g}"

    # figure: labels in the colour that contrasts with their cell
    figure = Figure(figsize=(2.5 + 1.3 * len(columns), 1.6 + 0.6 * len(rows)), layout="constrained")
    panel = figure.subplots()
    panel.set_facecolor("0.92")
    norm = "log" if needs_log_axis(cells[~cells.isnan()].tolist()) else "linear"
    colours = "cividis" if measure.sign < 0 else "cividis_r"  # bright is better
    image = panel.imshow(cells.numpy(), norm=norm, cmap=colours, aspect="auto")
    for (i, j), label in labels.items():
        colour = "white" if _brightness(image, cells[i, j].item()) < 0.5 else "black"
        panel.text(j, i, label, ha="center", va="center", fontsize=9, color=colour)
    panel.set_xticks(range(len(columns)), columns, rotation=20, ha="right")
    panel.set_yticks(range(len(rows)), rows)
    panel.set(xlabel=column_axis, ylabel=row_axis)
    figure.colorbar(image, label=measure.title)

    others = ", ".join(axis for axis in values_of if axis not in (column_axis, row_axis))
    averaged = f"seeds and {others}" if others else "seeds"
    caption = f"Means over {averaged}. Bright is better; grey has no value."
    return CaptionedFigure(f"{row_axis} against {column_axis}", caption, figure)


def _values_on(axis: str, options: Sequence[Option]) -> list[str]:
    """In the order in which they were first tried."""
    return list(dict.fromkeys(option.values[axis] for option in options))


def _mean(options: Sequence[Option], measure: Measure) -> float:
    values = []
    for option in options:
        values += option.by_seed(measure).values()
    return estimate_mean(values).mean if values else math.nan


def _outcomes(options: Sequence[Option]) -> str:
    """Why a cell has no value, one word per line."""
    return "\n".join({option.outcome.split(" ")[-1] for option in options}) or "-"


def _brightness(image: AxesImage, value: float) -> float:
    """The brightness of a cell's colour, from 0 to 1; a cell without a value is bright."""
    if math.isnan(value):
        return 1.0
    red, green, blue, _ = image.to_rgba(np.array([value]))[0]
    return 0.3 * red + 0.6 * green + 0.1 * blue
