"""Makes the report on recorded runs."""

import tempfile
from pathlib import Path

from ztsnr.comparison.comparison import Comparison
from ztsnr.comparison.curves import learning_curve
from ztsnr.comparison.figures import (
    MAX_CURVES,
    CaptionedFigure,
    plot_error_by_sigma,
    plot_guidance,
    plot_learning_curves,
    plot_values,
)
from ztsnr.comparison.heat_map import plot_heat_map
from ztsnr.comparison.measures import MEASURES
from ztsnr.comparison.report import ComparisonReport
from ztsnr.comparison.runs import newest_sweep, read_runs, sweep_summary
from ztsnr.comparison.same_objectives import same_objective_options
from ztsnr.comparison.samples import read_samples
from ztsnr.core.errors import ConfigError, TrackingError
from ztsnr.tracking.experiment import Experiment
from ztsnr.tracking.mlflow_tracker import MLflowTracker
from ztsnr.tracking.tracker import Tracker


def compare(
    tracker: Tracker,
    *,
    sweep: str | None = None,
    where: str | None = None,
    baseline: str | None = None,
    rank_by: str = "score",
    output: str | None = None,
    every_run: bool = False,
    attach: bool = True,
) -> tuple[ComparisonReport, Path]:
    """Writes the report on a sweep, by default the newest; returns the report and the path of its page.

    where: MLflow's filter.
    baseline: the name of an option.
    every_run: reports on all runs of the experiment.
    attach: also adds the report to the sweep's summary run.
    """
    if not isinstance(tracker, MLflowTracker):
        raise ConfigError("Only runs recorded in MLflow can be compared, so tracking must be mlflow.")
    experiment = Experiment(tracker)
    if not sweep and not where and not every_run:
        sweep = newest_sweep(experiment)
    comparison = Comparison(read_runs(experiment, sweep or "", where or ""), MEASURES[rank_by], baseline)

    command = ["python -m ztsnr.compare"]
    for name, value in {"sweep": sweep, "filter": where, "baseline": baseline, "rank_by": rank_by}.items():
        if value:
            command.append(f"'{name}={value}'")
    folder = Path(output) if output else tracker.folder / "comparisons" / (sweep or tracker.experiment)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        report = make_report(comparison, experiment, " ".join(command), folder)
        page = report.write(folder)
    except OSError as error:
        raise TrackingError(f"output={folder} cannot be written: {error.strerror}") from error

    if sweep and attach:
        summary = sweep_summary(experiment, sweep)
        experiment.attach(summary.id, folder, "comparison", report.markdown())
    return report, page


def make_report(comparison: Comparison, experiment: Experiment, command: str, folder: Path) -> ComparisonReport:
    """Downloads the configs and samples of the compared runs to a temporary folder in `folder`."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        same_objectives = same_objective_options(comparison.options, experiment, Path(temporary))
        samples = read_samples(comparison.ranked[:MAX_CURVES], experiment, Path(temporary))
    return ComparisonReport(
        comparison=comparison,
        table=comparison.table(same_objectives),
        figures=plot_figures(comparison, experiment),
        samples=samples,
        command=command,
    )


def plot_figures(comparison: Comparison, experiment: Experiment) -> dict[str, CaptionedFigure]:
    """File name -> figure, for those figures that the runs have data for."""
    ranked = comparison.ranked
    baseline = comparison.baseline
    curves = {}
    for entry in ranked[:MAX_CURVES]:
        curves[entry.option.name] = learning_curve(entry.option, experiment)

    figures = {
        "options": plot_values(ranked, comparison.measure, baseline),
        "heat_map": plot_heat_map(comparison.options, comparison.measure),
        "error_by_sigma": plot_error_by_sigma(ranked, baseline),
        "learning_curves": plot_learning_curves(ranked, curves),
        "guidance": plot_guidance(ranked),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}
