"""Figures: what an objective trains, and where a run is wrong. Levels are shown on ln sigma, with inf at the right."""

import math
from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ztsnr.objective import Objective
from ztsnr.target import V

LOW, HIGH = 1e-2, 1e3
AT_INF = HIGH * 4  # where sigma = inf stands on the axis
COLOURS = ("#0072B2", "#D55E00", "#009E73")  # Okabe and Ito's, distinct to colour-blind eyes


def objective_figure(objective: Objective, title: str) -> Figure:
    """Three panels over sigma: p, the share of draws; w, the weight on the squared error of v; W, their running sum."""
    draws = objective.schedule.density.sigma((torch.arange(2**15, dtype=torch.float64) + 0.5) / 2**15)
    edges = torch.logspace(math.log10(LOW), math.log10(HIGH), 61, dtype=torch.float64)
    sigma = torch.cat([(edges[1:] * edges[:-1]).sqrt(), torch.tensor([math.inf], dtype=torch.float64)])
    share = torch.histogram(draws.clamp(LOW, None), edges).hist / len(draws)
    at_inf = (draws > HIGH).double().mean()
    within = (sigma >= draws[0]) & (sigma <= draws[-1])
    weight = objective.weighting(sigma, V()).where(within, math.nan)
    running = objective.cumulative_weight(sigma, V())

    figure = Figure(figsize=(10, 3), layout="constrained")
    panels = figure.subplots(1, 3)
    panels[0].stairs(share, edges, fill=True, color=COLOURS[0], alpha=0.7)
    panels[0].bar([AT_INF], [at_inf], width=[AT_INF * 0.5], color=COLOURS[1])
    panels[0].set_title("p(σ): share of draws")
    _line(panels[1], sigma, weight, COLOURS[0], "")
    panels[1].set_title("w(σ): weight on the error of v")
    panels[1].set_ylim(bottom=0)
    _line(panels[2], sigma, running / running[-1], COLOURS[0], "")
    panels[2].set_title("W(σ): share of loss weight below σ")
    panels[2].set_ylim(0, 1.03)
    for panel in panels:
        _sigma_axis(panel)
    figure.suptitle(title)
    return figure


def validation_figure(errors: Mapping[str, Mapping[float, float]], title: str) -> Figure:
    """Error of v against sigma, a line for each network."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    panel = figure.subplots()
    for (name, by_sigma), colour in zip(errors.items(), COLOURS, strict=False):  # raw may lie under ema
        _line(panel, torch.tensor(list(by_sigma)), torch.tensor(list(by_sigma.values())), colour, name)
    panel.set_ylim(bottom=0)
    panel.set_ylabel("squared error of v, held-out")
    panel.legend()
    _sigma_axis(panel)
    figure.suptitle(title)
    return figure


def _line(panel, sigma: Tensor, value: Tensor, colour: str, label: str) -> None:
    """A line over the finite levels, and a point at inf where there is one."""
    finite = sigma.isfinite()
    panel.plot(sigma[finite], value[finite], color=colour, label=label, marker="." if finite.sum() < 20 else "")
    panel.plot([AT_INF] * int((~finite).sum()), value[~finite], color=colour, marker="o", linestyle="")


def _sigma_axis(panel) -> None:
    panel.set_xscale("log")
    panel.set_xlim(LOW * 0.8, AT_INF * 1.7)
    panel.set_xticks([0.01, 0.1, 1, 10, 100, AT_INF], ["0.01", "0.1", "1", "10", "100", "∞"])
    panel.set_xticks([], minor=True)
    panel.axvline(HIGH * 1.6, color="0.8", linewidth=0.8)
    panel.set_xlabel("σ = noise / signal")
    panel.spines[["top", "right"]].set_visible(False)
