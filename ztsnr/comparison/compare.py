"""From the record of runs to a report on them."""

import tempfile
from pathlib import Path

from ztsnr.comparison.options import MEASURES
from ztsnr.comparison.ranking import Comparison
from ztsnr.comparison.report import Report, make_report
from ztsnr.comparison.runs import Record
from ztsnr.core.errors import ConfigError, TrackingError
from ztsnr.tracking.mlflow_tracker import MLflowTracker
from ztsnr.tracking.tracker import Tracker


def compare(
    tracker: Tracker,
    *,
    sweep: str | None = None,
    filter: str | None = None,
    baseline: str | None = None,
    rank_by: str = "score",
    output: str | None = None,
    every_run: bool = False,
    attach: bool = True,
) -> tuple[Report, Path]:
    """Writes the report on a sweep (by default the newest) or on all runs; returns it and the path of its page."""
    if not isinstance(tracker, MLflowTracker):
        raise ConfigError("Runs are compared as MLflow has them, so tracking must be mlflow.")
    record = Record(tracker)
    if not sweep and not filter and not every_run:
        sweep = record.newest_sweep()
    comparison = Comparison(record.runs(sweep or "", filter or ""), MEASURES[rank_by], baseline)
    folder = Path(output) if output else tracker.folder / "comparisons" / (sweep or tracker.experiment)
    words = {"sweep": sweep, "filter": filter, "baseline": baseline, "rank_by": rank_by}
    source = " ".join(["python -m ztsnr.compare", *(f"'{name}={value}'" for name, value in words.items() if value)])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            report = make_report(comparison, record, Path(place), source)
        page = report.write(folder)
    except OSError as error:
        raise TrackingError(f"output={folder} cannot be written: {error.strerror}") from error
    if sweep and attach:
        record.attach(sweep, folder, report.markdown())
    return report, page
