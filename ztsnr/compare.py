"""Ranks what runs tried, over their seeds: python -m ztsnr.compare [sweep=ID] ['baseline=sdxl eps']"""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from ztsnr.config.command import command, quoted
from ztsnr.config.registry import build
from ztsnr.core import checks
from ztsnr.core.errors import ConfigError, TrackingError

if TYPE_CHECKING:
    from ztsnr.comparison.report import Report
    from ztsnr.tracking.tracker import Tracker


TEXTS = ("sweep", "filter", "baseline", "output")


def main() -> None:
    sys.argv[1:] = map(with_quotes, sys.argv[1:])
    compare_runs()


def with_quotes(word: str) -> str:
    """Puts the quotes around a text, such as baseline=v trainer.steps=5, that Hydra's grammar wants."""
    key, _, value = word.partition("=")
    plain = key in TEXTS and value not in ("", "null") and value[0] not in "'\""
    return f"{key}={quoted(value)}" if plain else word


@command("compare")
def compare_runs(composed: DictConfig) -> None:
    from ztsnr.analysis.tables import make_console
    from ztsnr.comparison.options import MEASURES

    checks.one_of("rank_by", composed.rank_by, MEASURES)
    checks.one_of("format", composed.format, ("table", "json", "csv"))
    for name in ("attach", "all"):
        checks.flag(name, composed[name])
    words = ("sweep", "filter", "baseline", "rank_by", "output")
    asked = {name: None if composed[name] is None else str(composed[name]) for name in words}
    report, page = compare(build(composed.tracking), **asked, every_run=composed.all, attach=composed.attach)
    if composed.format == "table":
        report.tell(make_console(sys.stdout))
    else:
        print(report.as_json() if composed.format == "json" else report.as_csv(), end="")
    print(f"report {page}", file=sys.stderr)


def compare(
    tracker: "Tracker",
    *,
    sweep: str | None = None,
    filter: str | None = None,
    baseline: str | None = None,
    rank_by: str = "score",
    output: str | None = None,
    every_run: bool = False,
    attach: bool = True,
) -> tuple["Report", Path]:
    """Writes the report on a sweep, the newest if none is named, or on all runs; returns it and the page's place."""
    from ztsnr.comparison.options import MEASURES
    from ztsnr.comparison.ranking import Comparison
    from ztsnr.comparison.report import make_report
    from ztsnr.comparison.runs import Record
    from ztsnr.tracking.tracker import MLflow

    if not isinstance(tracker, MLflow):
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


if __name__ == "__main__":
    main()
