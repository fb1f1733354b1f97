"""Statistics against scipy, and what a comparison and its report make of invented runs."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ztsnr.comparison.comparison import Comparison
from ztsnr.comparison.curves import Point, error_by_sigma, mean_curve
from ztsnr.comparison.figures import line_styles, needs_log_axis, plot_error_by_sigma, plot_guidance, plot_values
from ztsnr.comparison.heat_map import plot_heat_map
from ztsnr.comparison.measures import MEASURES
from ztsnr.comparison.options import axes_of, group_by_option
from ztsnr.comparison.ranking import rank
from ztsnr.comparison.report import ComparisonReport
from ztsnr.comparison.runs import Run, best_attempts, interpret
from ztsnr.comparison.statistics import Estimate, estimate_mean, format_estimate, paired_difference
from ztsnr.core.errors import ConfigError
from ztsnr.tracking.experiment import RecordedRun

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
def test_interval_of_a_mean_is_students(values, level):
    estimate = estimate_mean(values, level)
    spread = stats.sem(values)
    low, high = stats.t.interval(level, len(values) - 1, loc=sum(values) / len(values), scale=spread or 1.0)
    half_width = (high - low) / 2 if spread else 0.0
    assert estimate.mean == pytest.approx(sum(values) / len(values), abs=1e-9)
    assert estimate.half_width == pytest.approx(half_width, rel=1e-6, abs=1e-9)


@given(FLOATS, st.integers(1, 9))
def test_interval_of_a_paired_difference_is_scipys(values, comparisons):
    one = {(seed,): value for seed, value in enumerate(values)}
    other = {(seed,): 0.5 * value + seed for seed, value in enumerate(values)}
    difference = paired_difference(one, other | {("only here",): 7.0}, comparisons)
    if stats.sem([one[key] - other[key] for key in one]) < 1e-9:
        return
    test = stats.ttest_rel(list(one.values()), list(other.values()))
    interval = test.confidence_interval(1 - 0.05 / comparisons)
    low, high = difference.mean - difference.half_width, difference.mean + difference.half_width
    assert (low, high) == pytest.approx(tuple(interval), rel=1e-6, abs=1e-6)
    assert difference.excludes_zero == (test.pvalue < 0.05 / comparisons)


def test_one_seed_has_no_interval():
    estimate = estimate_mean([0.5])
    assert estimate.mean == 0.5
    assert math.isnan(estimate.half_width)
    assert not estimate.excludes_zero


def test_difference_without_a_common_seed_has_no_value():
    difference = paired_difference({("a",): 1.0}, {("b",): 1.0}, 1)
    assert difference.count == 0
    assert math.isnan(difference.mean)


def test_axes_are_the_fewest_settings_that_distinguish_options():
    assert axes_of(GRID) == ["schedule", "loss"]  # an option's own gamma follows from it
    assert axes_of([scored(1, loss="eps", seed=0), scored(1, loss="eps", seed=1)]) == []
    swept = [scored(1, loss="min_snr", weighting__gamma=gamma, samples__steps=gamma) for gamma in (1, 5)]
    assert axes_of(swept) == ["weighting.gamma"]


def test_a_failed_run_without_parameters_belongs_to_its_option():
    failed_run = run(outcome="failed", schedule="sdxl", loss="eps", seed=3)
    options = group_by_option([*GRID, failed_run])
    assert [option.name for option in options] == ["sdxl eps", "sdxl vpred", "ztsnr vpred", "ztsnr eps"]
    assert options[0].outcome == "1 of 4 failed"
    assert options[3].outcome == "incompatible"


def test_best_attempt_is_the_finished_one_or_else_the_newest():
    attempts = [
        run("a", "failed", started=1, identity="x"),
        run("b", "finished", started=2, identity="x"),
        run("c", "interrupted", started=3, identity="x"),
        run("d", "failed", started=4, identity="y"),
        run("e", "interrupted", started=5, identity="y"),
    ]
    assert [attempt.name for attempt in best_attempts(attempts)] == ["b", "e"]


def test_runs_recorded_by_0de1f9a_have_the_settings_of_today():
    params = {"trainer.clip": "1.0", "weighting": "MinSNR", "validation": "Validation", "validation.samples": "4"}
    tags = {"ztsnr.axes": '{"quality": "samples", "trainer.accumulate": "2"}', "weighting": "min_snr"}
    old_run = RecordedRun("id", "name", "FINISHED", 0, tags, params, {})
    assert interpret(old_run).settings == {
        "quality": "frechet",
        "trainer.gradient_accumulation_steps": "2",
        "weighting": "min_snr",
        "trainer.max_grad_norm": "1.0",
        "validation": "held_out",
        "validation.samples": "4",
    }


def test_comparison_ranks_options_and_answers_its_question():
    comparison = Comparison(GRID, SCORE, None)
    assert [row.option.name for row in comparison.ranked] == ["ztsnr vpred", "sdxl vpred", "sdxl eps"]
    assert comparison.baseline.name == "sdxl eps"
    best, second, base = comparison.ranked
    assert best.difference.mean == pytest.approx(-0.2)
    assert best.gap_to_best is None
    assert base.difference is None
    assert second.gap_to_best.mean == pytest.approx(0.1)
    assert comparison.question == "Which schedule and loss?"
    assert comparison.answer == "ztsnr vpred: held-out error of v 0.3100 ± 0.0248. All others are worse"
    assert [option.name for option in comparison.unranked] == ["ztsnr eps"]


def test_rank_puts_the_highest_accuracy_first_at_its_best_guidance():
    runs = [
        run(
            metrics={"quality_accuracy/guidance_01.00": low, "quality_accuracy/guidance_02.00": high}, loss=loss, seed=0
        )
        for loss, low, high in (("eps", 0.9, 0.5), ("vpred", 0.1, 0.95))
    ]
    accuracy = MEASURES["accuracy"]
    options = group_by_option(runs)
    assert [row.option.name for row in rank(options, accuracy, options[0])] == ["vpred", "eps"]
    assert options[0].metric_of(accuracy) == "quality_accuracy/guidance_01.00"
    assert options[1].metric_of(accuracy) == "quality_accuracy/guidance_02.00"


def test_comparison_refuses_a_baseline_that_did_not_finish():
    with pytest.raises(ConfigError, match="'sdxl eps', 'sdxl vpred', 'ztsnr vpred', got 'ztsnr eps'"):
        Comparison(GRID, SCORE, "ztsnr eps")


def test_comparison_without_a_finished_run_is_refused():
    with pytest.raises(ConfigError, match=r"None of 1 runs has a held-out error of v to be ranked by: it cannot be"):
        Comparison(GRID[-1:], SCORE, None)


def test_comparison_refuses_runs_that_were_measured_differently():
    for key in ("validation.samples", "data", "data.held_out"):
        mixed = [scored(1, loss="eps", **{key.replace(".", "__"): value}) for value in (1, 2)]
        with pytest.raises(ConfigError, match=rf"{key} is 1 in 'run' and 2 in 'run'"):
            Comparison(mixed, SCORE, None)


def test_quality_settings_must_be_equal_only_to_rank_by_quality():
    metric = {"quality_frechet/guidance_01.00": 1.0, "error/score": 1.0}
    mixed = [run(metrics=metric, loss="eps", seed=seed, quality__samples=seed) for seed in (1, 2)]
    assert len(Comparison(mixed, SCORE, None).ranked) == 1
    with pytest.raises(ConfigError, match=r"quality\.samples is 1"):
        Comparison(mixed, MEASURES["frechet"], None)


def test_mean_curve_has_the_steps_that_all_seeds_have():
    one = [Point(0, 0.0, 1.0), Point(10, 1.0, 0.5), Point(20, 2.0, 0.4)]
    other = [Point(0, 0.0, 3.0), Point(10, 3.0, 0.7)]
    assert mean_curve([one, other]) == [Point(0, 0.0, 2.0), Point(10, 2.0, pytest.approx(0.6))]


def test_format_estimate_writes_the_interval_where_there_is_one():
    assert format_estimate(Estimate(0.30211, 0.00425, 3), 4) == "0.3021 ± 0.0043"
    assert format_estimate(Estimate(0.30211, math.nan, 1), 4) == "0.3021"
    assert format_estimate(Estimate(0.02, 0.01, 3), 2, "+") == "+0.02 ± 0.01"
    assert format_estimate(Estimate(math.nan, math.nan, 0), 4) == "-"


def test_line_styles_share_colour_by_the_first_axis_and_dashes_by_the_second():
    styles = line_styles(Comparison(GRID, SCORE, None).ranked)
    assert styles["sdxl eps"]["color"] == styles["sdxl vpred"]["color"] != styles["ztsnr vpred"]["color"]
    assert styles["sdxl vpred"]["linestyle"] == styles["ztsnr vpred"]["linestyle"]


def test_line_styles_of_many_options_all_differ():
    runs = [scored(1 + i / 100, optimizer=f"o{i}", seed=0) for i in range(40)]
    styles = [tuple(style.values()) for style in line_styles(Comparison(runs, SCORE, None).ranked).values()]
    assert len(set(styles)) == len(styles) == 32


def test_plot_of_values_has_the_best_option_on_top():
    comparison = Comparison(GRID, SCORE, None)
    figure = plot_values(comparison.ranked, SCORE, comparison.baseline).figure
    assert figure.axes[0].get_yticklabels()[0].get_text() == "ztsnr vpred"


def test_heat_map_has_a_value_or_an_outcome_in_each_cell():
    figure = plot_heat_map(group_by_option(GRID), SCORE).figure
    assert {text.get_text() for text in figure.axes[0].texts} == {"0.51", "0.41", "0.31", "incompatible"}


def test_heat_map_needs_two_axes():
    assert plot_heat_map(group_by_option(GRID[:6]), SCORE) is None


def test_error_by_sigma_is_relative_to_the_baseline_on_the_right():
    comparison = Comparison(GRID, SCORE, None)
    assert error_by_sigma(comparison.options[0]) == {0.1: pytest.approx(0.51), math.inf: pytest.approx(1.02)}
    ratio = plot_error_by_sigma(comparison.ranked, comparison.baseline).figure.axes[1].lines[0]
    assert list(ratio.get_ydata()) == [pytest.approx(0.31 / 0.51)]


def test_guidance_is_not_plotted_where_no_quality_was_measured():
    assert plot_guidance(Comparison(GRID, SCORE, None).ranked) is None


def test_axis_is_logarithmic_from_a_ratio_of_8():
    assert not needs_log_axis([1.0, 7.0])
    assert needs_log_axis([1.0, 9.0])


def test_report_writes_one_page_and_tables_for_scripts(tmp_path):
    comparison = Comparison(GRID, SCORE, "sdxl vpred")
    table = comparison.table(same_objectives=[["sdxl vpred", "ztsnr vpred"]])
    figures = {"options": plot_values(comparison.ranked, SCORE, comparison.baseline)}
    report = ComparisonReport(comparison, table, figures, samples=None, command="command")
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
