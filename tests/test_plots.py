"""Figures of objectives and of validation errors."""

import math

import pytest

from ztsnr.analysis.plots import objective_figure, validation_figure
from ztsnr.analysis.summary import Summary
from ztsnr.config.registry import build, compose

LEARNED = ("schedule=laplace_ztsnr", "weighting=uncertainty")


@pytest.mark.parametrize("overrides", [(), ("loss=eps", "schedule=laplace"), LEARNED])
def test_figures_show_every_level_of_the_density(overrides, tmp_path):
    objective = build(compose(*overrides).objective)
    figure = objective_figure({"title": Summary(objective=objective, steps=20)})
    shares, atom = figure.axes[0].patches[0].get_data().values, figure.axes[0].patches[-1].get_height()
    assert sum(shares) + float(atom) == pytest.approx(1, abs=2e-3)
    assert (atom > 0) == (objective.schedule.density.highest == math.inf)
    if not overrides:
        validation_figure({"raw": {1.0: 0.5, math.inf: 0.2}}, "title").savefig(tmp_path / "other.png")
