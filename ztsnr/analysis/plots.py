"""Figures of objectives and of validation errors. The axis of noise levels is logarithmic, with inf at the right."""

import io
import math
from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ztsnr.analysis.summary import COMMON_BASE, SDXL_MAX, Summary

LOW = 1e-2
HIGH = 1e3
"""The range of finite levels on the axis."""
AT_INF = HIGH * 4
"""The position of sigma = inf on the axis."""
MIN_WEIGHT = 1e-4
"""Smaller weights are not shown."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A6D00")
"""Okabe and Ito's colours, distinct for colour-blind readers."""
STYLES = ("-", "--", ":", "-.")

LineStyle = Mapping[str, Any]
"""Keyword arguments of matplotlib's plot."""


def objective_figure(summaries: Mapping[str, Summary]) -> Figure:
    """Four panels over sigma, with one colour for each objective.

    p: the share of draws, and the sampling grid as ticks. w: the weight on the squared error of v.
    W: its cumulative share over the draws. t: the network's timestep.
    """
    figure = Figure(figsize=(11, 7), layout="constrained")
    density, weight, cumulative, timestep = figure.subplots(2, 2).flat
    for index, (name, summary) in enumerate(summaries.items()):
        style = {"color": COLOURS[index % len(COLOURS)], "linestyle": STYLES[index // len(COLOURS) % len(STYLES)]}
        _plot_density(density, summary, style, offset=index / len(summaries), name=name)
        _plot_weights(weight, cumulative, summary, style)
        _plot_timesteps(timestep, summary, style)

    density.set_ylim(bottom=-0.12 * density.get_ylim()[1])
    density.set_title("p(σ): share of draws (ticks: levels that sampling visits)")
    weight.set_title("w(σ): weight on the error of v, mean 1")
    weight.set_yscale("log")
    weight.set_ylim(bottom=max(MIN_WEIGHT, weight.get_ylim()[0]))
    cumulative.set_title("W(σ): share of loss weight below σ (thin: of draws)")
    cumulative.set_ylim(0, 1.03)
    cumulative.axvspan(SDXL_MAX, AT_INF * 1.7, color="0.93", zorder=0)
    timestep.set_title("t(σ): the network's timestep")
    for panel in (density, weight, cumulative, timestep):
        set_sigma_axis(panel)

    if len(summaries) == 1:
        ((name, summary),) = summaries.items()
        draws, loss_weight = summary.share(SDXL_MAX)
        note = f"σ > {SDXL_MAX}:\n{100 * draws:.3g} % of draws\n{100 * loss_weight:.2g} % of weight"
        cumulative.annotate(note, (SDXL_MAX * 1.2, 0.06), fontsize=9)
        figure.suptitle(name)
    else:
        figure.legend(*density.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def objective_image(summaries: Mapping[str, Summary]) -> Image.Image:
    data = io.BytesIO()
    objective_figure(summaries).savefig(data, format="png", dpi=90)
    return Image.open(data)


def _plot_density(panel: Axes, summary: Summary, style: LineStyle, offset: float, name: str) -> None:
    # draws: a histogram of the levels on the axis, and a bar for those above it
    edges = torch.logspace(math.log10(LOW), math.log10(HIGH), 61, dtype=torch.float64)
    share = torch.histogram(summary.draws.clamp(LOW, None), edges).hist / summary.count
    panel.stairs(share, edges, label=name, **style)
    panel.stairs(share, edges, fill=True, color=style["color"], alpha=0.15)
    above = (summary.draws > HIGH).double().mean().item()
    panel.bar([AT_INF * (0.75 + 0.5 * offset)], [above], width=[AT_INF * 0.12], color=style["color"])

    # sampling grid: ticks below the histogram
    grid = summary.grid[:-1].clamp(LOW, None)
    grid = grid.where(grid <= HIGH, torch.tensor(float(AT_INF), dtype=grid.dtype))
    row = panel.get_xaxis_transform()  # x in data coordinates, y as a fraction of the panel
    height = torch.full_like(grid, 0.02 + 0.08 * offset)
    panel.plot(grid, height, "|", transform=row, color=style["color"], markersize=6)


def _plot_weights(weight: Axes, cumulative: Axes, summary: Summary, style: LineStyle) -> None:
    sigma = _levels()
    within = (sigma >= summary.draws[0]) & (sigma <= summary.draws[-1])
    weighting = summary.objective.weighting
    with torch.no_grad():
        w = weighting(sigma, COMMON_BASE) / weighting(summary.draws, COMMON_BASE).mean()
    plot_levels(weight, sigma, w.where(within & (w > 0), math.nan), style)

    share_of_draws = torch.searchsorted(summary.draws, sigma, right=True) / summary.count
    plot_levels(cumulative, sigma, summary.cumulative_share(sigma), style)
    plot_levels(cumulative, sigma, share_of_draws, {**style, "linewidth": 0.8, "alpha": 0.7})


def _plot_timesteps(panel: Axes, summary: Summary, style: LineStyle) -> None:
    sigma = _levels()
    t = summary.objective.schedule.timesteps(sigma)
    plot_levels(panel, sigma, t.where(t.isfinite(), math.nan), style)


def _levels() -> Tensor:
    """(401,) float64: levels along the axis, and inf."""
    finite = torch.logspace(math.log10(LOW), math.log10(HIGH), 400)
    return torch.cat([finite, torch.tensor([math.inf])]).double()


def validation_figure(errors: Mapping[str, Mapping[float, float]], title: str) -> Figure:
    """Error of v by sigma, one line for each network."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    panel = figure.subplots()
    for (name, by_sigma), colour, style in zip(errors.items(), COLOURS, STYLES, strict=False):
        sigma = torch.tensor(list(by_sigma))
        error = torch.tensor(list(by_sigma.values()))
        plot_levels(panel, sigma, error, {"color": colour, "linestyle": style, "label": name})
    panel.set_ylim(bottom=0)
    panel.set_ylabel("squared error of v, held-out")
    panel.legend()
    set_sigma_axis(panel)
    figure.suptitle(title)
    return figure


def plot_levels(panel: Axes, sigma: Tensor, value: Tensor, style: LineStyle) -> None:
    """Plots a line over the finite levels, and a point at inf if that is among them."""
    finite = sigma.isfinite()
    panel.plot(sigma[finite], value[finite], marker="." if finite.sum() < 20 else "", **style)
    if not finite.all():
        panel.plot([AT_INF], value[~finite], marker="o", color=style["color"], markersize=4)


def set_sigma_axis(panel: Axes) -> None:
    panel.set_xscale("log")
    panel.set_xlim(LOW * 0.8, AT_INF * 1.7)
    panel.set_xticks([0.01, 0.1, 1, 10, 100, AT_INF], ["0.01", "0.1", "1", "10", "100", "∞"])
    panel.set_xticks([], minor=True)
    panel.axvline(HIGH * 1.6, color="0.8", linewidth=0.8)
    panel.set_xlabel("σ = noise / signal")
    panel.spines[["top", "right"]].set_visible(False)
