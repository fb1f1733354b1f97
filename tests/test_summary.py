"""What preview reports of a combination, against known numbers."""

import math

import pytest
import torch

from ztsnr.analysis.plots import objective_figure
from ztsnr.analysis.summary import Summary, percent, same_objectives
from ztsnr.analysis.tables import print_many, print_one
from ztsnr.config.registry import build, compose
from ztsnr.core.target import V


def summary_of(*overrides, steps=20):
    return Summary(objective=build(compose(*overrides).objective), steps=steps)


def kinds(summary):
    return [note.split(":")[0] for note in summary.notes()]


def test_shares_equal_those_of_the_table_and_min_snrs_known_shares(zero_terminal):
    summary = summary_of()
    assert summary.share(0)[0] == pytest.approx(1)
    assert summary.share_at(math.inf) == pytest.approx((0.001, 0.001), abs=2e-5)
    within = (zero_terminal.sigmas > 1) & (zero_terminal.sigmas <= 10)
    assert summary.share(1, 10)[0] == pytest.approx(within.sum().item() / 1000, abs=2e-5)
    assert summary.median()[0] == pytest.approx(zero_terminal.sigmas[500].item())
    share, weight = summary_of("loss=novelai_v3").share(14.6)
    assert share == pytest.approx(0.120, abs=5e-4)
    assert weight == pytest.approx(0.0006, abs=5e-5)


def test_cumulative_share_ends_in_1_and_is_the_objectives_cumulative_weight():
    summary = summary_of("loss=eps", "schedule=sdxl")
    sigma = torch.tensor([0.1, 1.0, 10.0, math.inf], dtype=torch.float64)
    total = summary.objective.cumulative_weight(sigma, V())
    share = summary.cumulative_share(sigma)
    torch.testing.assert_close(share, total / total[-1])
    assert share[-1] == 1
    weighed = torch.stack([summary.weight[summary.draws <= level].sum() for level in sigma])
    torch.testing.assert_close(share, weighed, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), []),
        (("loss=novelai_v3",), ["Starved", "Wasted"]),
        (("weighting=min_snr_plus_one",), []),
        (("schedule=sdxl", "loss=eps"), ["Starved", "Wasted"]),
        (("schedule=laplace",), []),
        (("schedule=laplace", "schedule/grid=karras_terminal"), ["Starved"]),
        (("schedule=laplace_ztsnr",), []),
        (("schedule/grid=leading",), ["Wasted"]),
        (("schedule=sdxl_ztsnr", "schedule/grid=karras"), ["Wasted"]),
    ],
)
def test_notes_name_starved_and_wasted_levels(overrides, expected):
    assert kinds(summary_of(*overrides)) == expected


@pytest.mark.parametrize(
    ("overrides", "base"),
    [
        (("weighting=min_snr", "weighting.gamma=2000", "schedule=sdxl"), "eps"),
        (("schedule=laplace", "weighting=importance", "schedule/density@weighting.intended=laplace"), "v"),
        (("weighting=p2", "weighting.gamma=0"), "eps"),
        (("weighting=min_snr_plus_one",), None),
    ],
)
def test_weighting_that_is_constant_over_the_draws_is_noted(overrides, base):
    notes = [note for note in summary_of(*overrides).notes() if "changes nothing" in note]
    assert [f"unit_{base}" in note for note in notes] == [True] * (base is not None)


def test_same_objectives_groups_options_that_train_alike():
    disguised = {
        "plain": ("schedule=laplace", "target=v", "weighting=unit_v"),
        "by importance": (
            "schedule=cosine",
            "schedule/grid=quantiles",
            "target=v",
            "weighting=importance",
            "schedule/density@weighting.intended=laplace",
        ),
        "min-SNR that clamps nothing": ("schedule=laplace", "target=v", "weighting=min_snr", "weighting.gamma=1e6"),
        "eps weight": ("schedule=laplace", "target=v", "weighting=unit_eps"),
        "different target": ("schedule=laplace", "target=x0", "weighting=unit_v"),
        "different density": ("schedule=laplace", "schedule.density.b=0.75", "target=v", "weighting=unit_v"),
    }
    groups = same_objectives({name: summary_of(*overrides) for name, overrides in disguised.items()})
    assert groups == [["plain", "by importance"], ["min-SNR that clamps nothing", "eps weight"]]
    learned = {name: summary_of("weighting=uncertainty") for name in ("one", "other")}
    assert same_objectives(learned) == []


@pytest.mark.parametrize(("share", "text"), [(0, "none"), (1, "100 %"), (0.0006, "0.06 %"), (3e-7, "3e-05 %")])
def test_percent_has_three_digits_at_most(share, text):
    assert percent(share) == text


class RecordingConsole:
    def __init__(self):
        self.lines = []

    def print(self, *objects, **_):
        self.lines += map(str, objects)


def test_tables_print_notes_refusals_and_same_objectives():
    console = RecordingConsole()
    print_one(console, "mine", summary_of("loss=novelai_v3"))
    assert any("Starved" in line for line in console.lines)
    console = RecordingConsole()
    pair = {"a": summary_of("schedule=laplace"), "b": summary_of("schedule=laplace")}
    print_many(console, pair, {"c": "it cannot be"})
    assert any("a | b" in line for line in console.lines)
    assert any("it cannot be" in line for line in console.lines)


def test_figure_shows_every_objective(tmp_path):
    names = ["schedule=ztsnr", "schedule=edm", "schedule=infonoise"]
    figure = objective_figure({name: summary_of(name) for name in names})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    single = objective_figure({"loss=novelai_v3": summary_of("loss=novelai_v3")})
    notes = [text.get_text() for axes in single.axes for text in axes.texts]
    assert any("12 % of draws" in note and "0.06 % of weight" in note for note in notes)
    single.savefig(tmp_path / "figure.png")
