"""Reads the runs of an MLflow experiment, and attaches reports to them."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ztsnr.core.errors import ConfigError, TrackingError
from ztsnr.tracking.mlflow_tracker import MLflowTracker

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun


@dataclass(frozen=True)
class RecordedRun:
    id: str
    name: str
    status: str
    """MLflow's: RUNNING, FINISHED, FAILED, KILLED."""
    start_time: int
    """Milliseconds since 1970."""
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    """The last value of each."""


class MetricPoint(NamedTuple):
    step: int
    time: int
    """Milliseconds since 1970."""
    value: float


class Experiment:
    """The experiment that a tracker writes to. Raises TrackingError if it does not exist."""

    def __init__(self, tracker: MLflowTracker) -> None:
        tracker.check()
        self.uri = tracker.uri
        self.name = tracker.experiment
        self._client, experiment = tracker.open_experiment()
        self._id = experiment.experiment_id

    def __str__(self) -> str:
        return f"experiment {self.name!r} in {self.uri}"

    def search(self, where: str) -> list[RecordedRun]:
        """The runs that match MLflow's filter `where`. Raises ConfigError for an invalid filter."""
        from mlflow.exceptions import MlflowException

        runs = []
        token = None
        while token != "":
            try:
                page = self._client.search_runs([self._id], where, page_token=token)
            except MlflowException as error:
                if error.error_code == "INVALID_PARAMETER_VALUE":
                    raise ConfigError(f"filter was rejected by MLflow: {error.message}") from error
                raise TrackingError(f"{self.uri} cannot be read: {error.message}") from error
            for run in page:
                runs.append(_recorded_run(run))
            token = page.token or ""
        return runs

    def history(self, run_id: str, metric: str) -> list[MetricPoint]:
        history = self._client.get_metric_history(run_id, metric)
        return [MetricPoint(point.step, point.timestamp, point.value) for point in history]

    def files(self, run_id: str) -> set[str]:
        """Names of the files and folders at the top of the run's artifacts."""
        return {file.path for file in self._client.list_artifacts(run_id)}

    def download(self, run_id: str, name: str, folder: Path) -> Path | None:
        """Downloads one of the run's files to `folder`; None if the run has no such file."""
        if name not in self.files(run_id):
            return None
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            path = self._client.download_artifacts(run_id, name, temporary)
            return Path(path).replace(folder / f"{run_id}-{name}")

    def attach(self, run_id: str, folder: Path, artifact_folder: str, text: str) -> None:
        """Adds the files in `folder` to a run's artifacts, and sets the Markdown `text` as its description."""
        self._client.log_artifacts(run_id, str(folder), artifact_folder)
        self._client.set_tag(run_id, "mlflow.note.content", text)


def _recorded_run(run: "MlflowRun") -> RecordedRun:
    return RecordedRun(
        id=run.info.run_id,
        name=run.info.run_name or "",
        status=run.info.status,
        start_time=run.info.start_time,
        tags=run.data.tags,
        params=run.data.params,
        metrics=run.data.metrics,
    )
