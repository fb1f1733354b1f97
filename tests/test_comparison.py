"""Statistics against scipy, grouping and refusals on made-up runs, and the report that comes of them."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ztsnr.compare import with_quotes
from ztsnr.comparison.figures import error_by_sigma, errors_of, guidance_curves, heat_map, is_wide, looks_of, scores
from ztsnr.comparison.options import MEASURES, Estimate, axes_of, estimate, options_of, paired, rank
from ztsnr.comparison.ranking import Comparison, mean_curve, written
from ztsnr.comparison.report import Report
from ztsnr.comparison.runs import Point, Run, latest
from ztsnr.core.errors import ConfigError

SCORE = MEASURES["score"]


def run(name="run", outcome="finished", metrics=(), started=0, identity="", message="", **settings):
    settings = {key.replace("__", "."): str(value) for key, value in settings.items()}
    return Run(name, name, outcome, message, started, settings, dict(metrics), identity or f"{name} {settings}")


def scored(score, **settings):
    return run(
        metrics={"error/score": score, "error_raw/sigma_000.10": score, "error_raw/sigma_inf": 2 * score}, **settings
    )


GRID = [
    scored(base + 0.01 * seed, schedule=schedule, loss=loss, seed=seed, **{"weighting__gamma": gamma})
    for (schedule, loss, gamma), base in {
        ("sdxl", "eps", 1): 0.5,
        ("sdxl", "vpred", 5): 0.4,
        ("ztsnr", "vpred", 5): 0.3,
    }.items()
    for seed in (0, 1, 2)
] + [run(outcome="incompatible", message="it cannot be", schedule="ztsnr", loss="eps", seed=0)]

FLOATS = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8)


@given(FLOATS, st.floats(0.5, 0.999))
def test_an_estimate_is_students(values, level):
    found = estimate(values, level)
    spread = stats.sem(values)
    low, high = stats.t.interval(level, len(values) - 1, loc=sum(values) / len(values), scale=spread or 1.0)
    wanted = (high - low) / 2 if spread else 0.0
    assert found.mean == pytest.approx(sum(values) / len(values), abs=1e-9)
    assert found.half == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@given(FLOATS, st.integers(1, 9))
def test_a_paired_difference_is_scipys_paired_test(values, comparisons):
    one = {(seed,): value for seed, value in enumerate(values)}
    other = {(seed,): 0.5 * value + seed for seed, value in enumerate(values)}
    found = paired(one, other | {("only here",): 7.0}, comparisons)
    if stats.sem([one[key] - other[key] for key in one]) < 1e-9:
        return
    test = stats.ttest_rel(list(one.values()), list(other.values()))
    interval = test.confidence_interval(1 - 0.05 / comparisons)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx(tuple(interval), rel=1e-6, abs=1e-6)
    assert found.is_apart == (test.pvalue < 0.05 / comparisons)


def test_one_seed_has_no_interval():
    found = estimate([0.5])
    assert found.mean == 0.5
    assert math.isnan(found.half)
    assert not found.is_apart
    assert paired({("a",): 1.0}, {("b",): 1.0}, 1).count == 0


def test_axes_are_the_fewest_settings_that_tell_options_apart_and_a_run_without_settings_makes_none():
    assert axes_of(GRID) == ["schedule", "loss"]  # an option's own gamma follows from it
    assert axes_of([scored(1, loss="eps", seed=0), scored(1, loss="eps", seed=1)]) == []
    swept = [scored(1, loss="min_snr", weighting__gamma=gamma, samples__steps=gamma) for gamma in (1, 5)]
    assert axes_of(swept) == ["weighting.gamma"]
    broken = run(outcome="failed", schedule="sdxl", loss="eps", seed=3)
    options = options_of([*GRID, broken])
    assert [option.name for option in options] == ["sdxl eps", "sdxl vpred", "ztsnr vpred", "ztsnr eps"]
    assert options[0].outcome == "1 of 4 failed"
    assert options[3].outcome == "incompatible"


def test_of_several_attempts_the_finished_one_counts_and_else_the_newest():
    attempts = [
        run("a", "failed", started=1, identity="x"),
        run("b", "finished", started=2, identity="x"),
        run("c", "interrupted", started=3, identity="x"),
        run("d", "failed", started=4, identity="y"),
        run("e", "interrupted", started=5, identity="y"),
    ]
    assert [attempt.name for attempt in latest(attempts)] == ["b", "e"]


def test_the_ranking_its_differences_and_its_words():
    comparison = Comparison(GRID, SCORE, None)
    assert [row.option.name for row in comparison.rows] == ["ztsnr vpred", "sdxl vpred", "sdxl eps"]
    assert comparison.baseline.name == "sdxl eps"
    best, second, base = comparison.rows
    assert best.difference.mean == pytest.approx(-0.2)
    assert best.lag is None
    assert base.difference is None
    assert second.lag.mean == pytest.approx(0.1)
    assert comparison.question == "Which schedule and loss?"
    assert comparison.answer == "ztsnr vpred: held-out error of v 0.3100 ± 0.0248. All others are worse"
    assert [option.name for option in comparison.unranked] == ["ztsnr eps"]


def test_more_is_better_where_it_is():
    runs = [
        run(
            metrics={"quality_accuracy/guidance_01.00": low, "quality_accuracy/guidance_02.00": high}, loss=loss, seed=0
        )
        for loss, low, high in (("eps", 0.9, 0.5), ("vpred", 0.1, 0.95))
    ]
    accuracy = MEASURES["accuracy"]
    options = options_of(runs)
    assert [row.option.name for row in rank(options, accuracy, options[0])] == ["vpred", "eps"]
    assert options[0].metric_of(accuracy) == "quality_accuracy/guidance_01.00"
    assert options[1].metric_of(accuracy) == "quality_accuracy/guidance_02.00"


def test_a_baseline_that_is_not_there_and_runs_of_which_none_finished_are_refused():
    with pytest.raises(ConfigError, match="'sdxl eps', 'sdxl vpred', 'ztsnr vpred', got 'ztsnr eps'"):
        _ = Comparison(GRID, SCORE, "ztsnr eps").rows
    with pytest.raises(ConfigError, match=r"None of 1 runs has a held-out error of v to be ranked by: it cannot be"):
        Comparison(GRID[-1:], SCORE, None)


def test_runs_that_were_measured_differently_are_not_ranked_together():
    for key in ("validation.samples", "data", "data.held_out"):
        mixed = [scored(1, loss="eps", **{key.replace(".", "__"): value}) for value in (1, 2)]
        with pytest.raises(ConfigError, match=rf"{key} is 1 in 'run' and 2 in 'run'"):
            Comparison(mixed, SCORE, None)
    metric = {"quality_frechet/guidance_01.00": 1.0, "error/score": 1.0}
    mixed = [run(metrics=metric, loss="eps", seed=seed, quality__samples=seed) for seed in (1, 2)]
    assert len(Comparison(mixed, SCORE, None).rows) == 1
    with pytest.raises(ConfigError, match=r"quality\.samples is 1"):
        Comparison(mixed, MEASURES["frechet"], None)


def test_a_mean_curve_has_the_steps_of_all_seeds():
    one = [Point(0, 0.0, 1.0), Point(10, 1.0, 0.5), Point(20, 2.0, 0.4)]
    other = [Point(0, 0.0, 3.0), Point(10, 3.0, 0.7)]
    assert mean_curve([one, other]) == [Point(0, 0.0, 2.0), Point(10, 2.0, pytest.approx(0.6))]


def test_numbers_of_a_column_have_one_number_of_digits():
    assert written(Estimate(0.30211, 0.00425, 3), 4) == "0.3021 ± 0.0043"
    assert written(Estimate(0.30211, math.nan, 1), 4) == "0.3021"
    assert written(Estimate(0.02, 0.01, 3), 2, "+") == "+0.02 ± 0.01"
    assert written(Estimate(math.nan, math.nan, 0), 4) == "-"


def test_an_option_has_one_look_and_no_other_shares_it():
    rows = Comparison(GRID, SCORE, None).rows
    looks = looks_of(rows)
    assert looks["sdxl eps"]["color"] == looks["sdxl vpred"]["color"] != looks["ztsnr vpred"]["color"]
    assert looks["sdxl vpred"]["linestyle"] == looks["ztsnr vpred"]["linestyle"]
    many = [scored(1 + i / 100, optimizer=f"o{i}", seed=0) for i in range(40)]
    drawn = [tuple(look.values()) for look in looks_of(Comparison(many, SCORE, None).rows).values()]
    assert len(set(drawn)) == len(drawn) == 32


def test_figures_hold_what_the_runs_have():
    comparison = Comparison(GRID, SCORE, None)
    drawn = scores(comparison.rows, SCORE, comparison.baseline)
    assert drawn.figure.axes[0].get_yticklabels()[0].get_text() == "ztsnr vpred"
    shown = {text.get_text() for text in heat_map(comparison.options, SCORE).figure.axes[0].texts}
    assert shown == {"0.51", "0.41", "0.31", "incompatible"}
    assert heat_map(options_of(GRID[:6]), SCORE) is None  # of one axis
    assert errors_of(comparison.options[0]) == {0.1: pytest.approx(0.51), math.inf: pytest.approx(1.02)}
    ratio = error_by_sigma(comparison.rows, comparison.baseline).figure.axes[1].lines[0]
    assert list(ratio.get_ydata()) == [pytest.approx(0.31 / 0.51)]
    assert guidance_curves(comparison.rows) is None
    assert not is_wide([1.0, 7.0])
    assert is_wide([1.0, 9.0])


def test_a_report_is_one_page_a_table_and_files_for_scripts(tmp_path):
    comparison = Comparison(GRID, SCORE, "sdxl vpred")
    same = [["sdxl vpred", "ztsnr vpred"]]
    drawn = {"options": scores(comparison.rows, SCORE, comparison.baseline)}
    report = Report(comparison, comparison.table(same), same, drawn, None, "command")
    page = report.write(tmp_path).read_text()
    assert "<title>Which schedule and loss? ztsnr vpred: held-out error" in page
    assert page.count("<tr>") == 5
    assert 'src="data:image/png;base64,' in page
    assert "http" not in page
    read = json.loads((tmp_path / "table.json").read_text())
    assert read["baseline"] == "sdxl vpred"
    assert [row["option"] for row in read["options"]] == ["ztsnr vpred", "sdxl vpred", "sdxl eps", "ztsnr eps"]
    assert read["options"][0]["difference"] == pytest.approx(-0.1)
    assert read["options"][3]["value"] is None
    assert (tmp_path / "table.csv").read_text().count("\n") == 5
    assert "| ztsnr vpred | 0.3100 ± 0.0248 | -0.1000 ± 0.0000 * |" in report.markdown()
    assert "same as sdxl vpred" in report.markdown()


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("filter=tags.loss = 'vpred'", "filter=\"tags.loss = 'vpred'\""),
        ("baseline=v trainer.steps=5", 'baseline="v trainer.steps=5"'),
        ('baseline="v"', 'baseline="v"'),
        ("sweep=null", "sweep=null"),
        ("rank_by=frechet", "rank_by=frechet"),
        ("-h", "-h"),
    ],
)
def test_texts_need_no_second_quotes(word, wanted):
    assert with_quotes(word) == wanted
