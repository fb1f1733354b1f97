"""Figures: what an objective trains, and where a run is wrong. Levels are shown on ln sigma, with inf at the right."""

import io
import math
from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ztsnr.analysis.summary import COMMON, SDXL_MAX, Summary

LOW, HIGH = 1e-2, 1e3
AT_INF = HIGH * 4  # where sigma = inf stands on the axis
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A6D00")
"""Okabe and Ito's, distinct to colour-blind eyes."""
STYLES = ("-", "--", ":", "-.")
FAINTEST = 1e-4


def objective_figure(summaries: Mapping[str, Summary]) -> Figure:
    """Four panels over sigma, a colour for each objective.

    p: the share of draws, and the sampling grid as ticks. w: the weight on the squared error of v. W: its running sum
    over the draws. t: what the network is told.
    """
    figure = Figure(figsize=(11, 7), layout="constrained")
    density, weight, running, told = figure.subplots(2, 2).flat
    for place, (name, summary) in enumerate(summaries.items()):
        look = {"color": COLOURS[place % len(COLOURS)], "linestyle": STYLES[place // len(COLOURS) % len(STYLES)]}
        _draw_density(density, summary, look, place / len(summaries), name)
        _draw_weights(weight, running, told, summary, look, name)
    density.set_ylim(bottom=-0.12 * density.get_ylim()[1])
    density.set_title("p(σ): share of draws (ticks: levels that sampling visits)")
    weight.set_title("w(σ): weight on the error of v, mean 1")
    weight.set_yscale("log")
    weight.set_ylim(bottom=max(FAINTEST, weight.get_ylim()[0]))
    running.set_title("W(σ): share of loss weight below σ (thin: of draws)")
    running.set_ylim(0, 1.03)
    running.axvspan(SDXL_MAX, AT_INF * 1.7, color="0.93", zorder=0)
    if len(summaries) == 1:
        drawn, weighed = summary.share(SDXL_MAX)
        what = f"σ > {SDXL_MAX}:\n{100 * drawn:.3g} % of draws\n{100 * weighed:.2g} % of weight"
        running.annotate(what, (SDXL_MAX * 1.2, 0.06), fontsize=9)
    told.set_title("t(σ): what the network is told")
    for panel in (density, weight, running, told):
        set_sigma_axis(panel)
    if len(summaries) == 1:
        figure.suptitle(name)
    else:
        figure.legend(*density.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def objective_picture(summaries: Mapping[str, Summary]) -> Image.Image:
    return to_image(objective_figure(summaries))


def to_image(figure: Figure) -> Image.Image:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=90)
    return Image.open(data)


def _draw_density(panel, summary: Summary, look: Mapping, offset: float, name: str) -> None:
    edges = torch.logspace(math.log10(LOW), math.log10(HIGH), 61, dtype=torch.float64)
    share = torch.histogram(summary.draws.clamp(LOW, None), edges).hist / summary.count
    panel.stairs(share, edges, label=name, **look)
    panel.stairs(share, edges, fill=True, color=look["color"], alpha=0.15)
    above = (summary.draws > HIGH).double().mean().item()
    panel.bar([AT_INF * (0.75 + 0.5 * offset)], [above], width=[AT_INF * 0.12], color=look["color"])
    grid = summary.grid[:-1].clamp(LOW, None)
    grid = grid.where(grid <= HIGH, torch.tensor(float(AT_INF), dtype=grid.dtype))
    row = panel.get_xaxis_transform()  # x in data, y as a part of the panel
    panel.plot(grid, torch.full_like(grid, 0.02 + 0.08 * offset), "|", transform=row, color=look["color"], markersize=6)


def _draw_weights(weight, running, told, summary: Summary, look: Mapping, name: str) -> None:
    sigma = torch.cat([torch.logspace(math.log10(LOW), math.log10(HIGH), 400), torch.tensor([math.inf])]).double()
    within = (sigma >= summary.draws[0]) & (sigma <= summary.draws[-1])
    with torch.no_grad():
        w = summary.objective.weighting(sigma, COMMON) / summary.objective.weighting(summary.draws, COMMON).mean()
    draw_line(weight, sigma, w.where(within & (w > 0), math.nan), look)
    place = torch.searchsorted(summary.draws, sigma, right=True)
    draw_line(running, sigma, summary.running(sigma), look)
    draw_line(running, sigma, place / summary.count, look | {"linewidth": 0.8, "alpha": 0.7})
    timesteps = summary.objective.schedule.timesteps
    t = timesteps(sigma)
    draw_line(told, sigma, t.where(t.isfinite(), math.nan), look)


def validation_figure(errors: Mapping[str, Mapping[float, float]], title: str) -> Figure:
    """Error of v against sigma, a line for each network."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    panel = figure.subplots()
    for (name, by_sigma), colour, style in zip(errors.items(), COLOURS, STYLES, strict=False):
        sigma, error = torch.tensor(list(by_sigma)), torch.tensor(list(by_sigma.values()))
        draw_line(panel, sigma, error, {"color": colour, "linestyle": style, "label": name})
    panel.set_ylim(bottom=0)
    panel.set_ylabel("squared error of v, held-out")
    panel.legend()
    set_sigma_axis(panel)
    figure.suptitle(title)
    return figure


def draw_line(panel, sigma: Tensor, value: Tensor, look: Mapping) -> None:
    """A line over the finite levels, and a point at inf where there is one."""
    finite = sigma.isfinite()
    panel.plot(sigma[finite], value[finite], marker="." if finite.sum() < 20 else "", **look)
    if not finite.all():
        panel.plot([AT_INF], value[~finite], marker="o", color=look["color"], markersize=4)


def set_sigma_axis(panel) -> None:
    panel.set_xscale("log")
    panel.set_xlim(LOW * 0.8, AT_INF * 1.7)
    panel.set_xticks([0.01, 0.1, 1, 10, 100, AT_INF], ["0.01", "0.1", "1", "10", "100", "∞"])
    panel.set_xticks([], minor=True)
    panel.axvline(HIGH * 1.6, color="0.8", linewidth=0.8)
    panel.set_xlabel("σ = noise / signal")
    panel.spines[["top", "right"]].set_visible(False)
