"""Runs as the record has them."""

import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mlflow.entities import Run as Entry
from mlflow.exceptions import MlflowException

from ztsnr.config.identity import CHOICES, FAILED, FINISHED, INCOMPATIBLE, INTERRUPTED
from ztsnr.core.errors import ConfigError, TrackingError
from ztsnr.tracking.mlflow_tracker import MLflowTracker

BY_STATUS = {"FINISHED": FINISHED, "FAILED": FAILED, "KILLED": INTERRUPTED}


@dataclass(frozen=True)
class Run:
    id: str
    name: str
    outcome: str
    message: str
    started: int
    """Milliseconds since 1970."""
    settings: Mapping[str, str]
    """What was swept, the options that were chosen, and the parameters, in this order."""
    metrics: Mapping[str, float]
    identity: str
    """Equal for runs of which one is another attempt at the other."""


class Point(NamedTuple):
    step: int
    seconds: float
    value: float


class Record:
    """Reads the experiment that a tracker writes to. Raises TrackingError where there is none."""

    def __init__(self, tracker: MLflowTracker):
        tracker.check()
        self.uri = tracker.uri
        self.client, self.experiment = tracker.open_experiment()

    def newest_sweep(self) -> str:
        found = self._search("tags.`ztsnr.role` = 'sweep'", "is none yet")
        return max(found, key=lambda entry: entry.info.start_time).data.tags["ztsnr.sweep"]

    def summary(self, sweep: str) -> Entry:
        """The run that stands for a sweep."""
        where = f"tags.`ztsnr.sweep` = '{sweep}' and tags.`ztsnr.role` = 'sweep'"
        return self._search(where, f"is no sweep={sweep}")[0]

    def runs(self, sweep: str, where: str) -> list[Run]:
        """Those of a sweep, or all, that MLflow's filter `where` lets through; of several attempts, the best."""
        of_sweep = f"tags.`ztsnr.sweep` = '{sweep}'" if sweep else ""
        parts = filter(None, (of_sweep, "tags.`ztsnr.role` = 'run'", where))
        entries = self._search(" and ".join(parts), "is no run with " + (where or f"sweep={sweep}"))
        return latest(map(_run, entries))

    def curve(self, run: Run, metric: str) -> list[Point]:
        history = self.client.get_metric_history(run.id, metric)
        return [Point(entry.step, (entry.timestamp - run.started) / 1000, entry.value) for entry in history]

    def file(self, run: Run, name: str, folder: Path) -> Path | None:
        """Brings one of the run's files into `folder`."""
        if name not in {entry.path for entry in self.client.list_artifacts(run.id)}:
            return None
        with tempfile.TemporaryDirectory(dir=folder) as place:
            return Path(self.client.download_artifacts(run.id, name, place)).replace(folder / f"{run.id}-{name}")

    def attach(self, sweep: str, folder: Path, text: str) -> None:
        """Puts the files of a report into the summary run of a sweep, and `text`, Markdown, where it is seen first."""
        summary = self.summary(sweep).info.run_id
        self.client.log_artifacts(summary, str(folder), "comparison")
        self.client.set_tag(summary, "mlflow.note.content", text)

    def _search(self, where: str, none: str) -> list[Entry]:
        """Raises ConfigError where nothing matches, or where the filter is none of MLflow's."""
        entries, token = [], None
        while token != "":
            try:
                page = self.client.search_runs([self.experiment.experiment_id], where, page_token=token)
            except MlflowException as error:
                if error.error_code == "INVALID_PARAMETER_VALUE":
                    raise ConfigError(f"filter is not one that MLflow understands: {error.message}") from error
                raise TrackingError(f"{self.uri} cannot be read: {error.message}") from error
            entries, token = entries + list(page), page.token or ""
        if not entries:
            raise ConfigError(f"In experiment {self.experiment.name!r} of {self.uri} there {none}.")
        return entries


def _run(entry: Entry) -> Run:
    tags, info = entry.data.tags, entry.info
    axes = json.loads(tags.get("ztsnr.axes", "{}"))
    settings = axes | {name: tags[name] for name in CHOICES if name in tags and name not in axes}
    settings |= {name: value for name, value in sorted(entry.data.params.items()) if name not in settings}
    note = tags.get("mlflow.note.content", "").split("\n")[0]
    outcome = BY_STATUS.get(info.status, INTERRUPTED)
    if outcome == FINISHED and tags.get("ztsnr.outcome") == INCOMPATIBLE:
        outcome = INCOMPATIBLE
    return Run(
        id=info.run_id,
        name=info.run_name,
        outcome=outcome,
        message="" if outcome == FINISHED else re.sub(r"^(\w+Error|\w*Objective|NonFinite): ", "", note),
        started=info.start_time,
        settings=settings,
        metrics=entry.data.metrics,
        identity=tags.get("ztsnr.config") or tags.get("ztsnr.axes") or info.run_id,
    )


def latest(runs: Iterable[Run]) -> list[Run]:
    """One run for each identity, in the order of their starts: a finished one where there is one, else the newest."""
    chosen: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: (run.outcome == FINISHED, run.started)):
        chosen[run.identity] = run
    return sorted(chosen.values(), key=lambda run: run.started)
