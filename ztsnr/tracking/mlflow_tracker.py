"""Runs and sweeps in MLflow."""

import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ztsnr.core import checks
from ztsnr.core.errors import TrackingError
from ztsnr.tracking.code_version import code_version
from ztsnr.tracking.mlflow_run import MLflowRun
from ztsnr.tracking.spool import Spool
from ztsnr.tracking.store import (
    charts_url,
    check_store,
    create_store,
    find_or_create_experiment,
    is_server,
    make_client,
    redact_credentials,
    sqlite_path,
)
from ztsnr.tracking.tracker import Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment


class MLflowTracker(Tracker):
    """Starts and ends the records of runs and sweeps in MLflow.

    uri: a tracking URI; null means MLFLOW_TRACKING_URI if it is set, else a SQLite database in `folder`, with the
    artifacts next to it.
    flush_seconds: the time between two deliveries of new events. Failed deliveries are retried until the run ends.
    require_server: refuses to start a run if the server does not answer; false starts it anyway.
    final_flush_seconds: how long the end of a run retries failed deliveries.
    """

    def __init__(
        self,
        *,
        uri: str | None,
        folder: str,
        experiment: str,
        flush_seconds: float,
        require_server: bool,
        final_flush_seconds: float,
    ) -> None:
        checks.of_type("uri", uri, str | None)
        checks.finite("flush_seconds", flush_seconds, above=0)
        checks.finite("final_flush_seconds", final_flush_seconds, at_least=0)
        checks.flag("require_server", require_server)
        for name, value in (("folder", folder), ("experiment", experiment)):
            if not isinstance(value, str) or not value:
                raise TrackingError(f"{checks.key(name)} must be a name, got {value!r}")
        self.folder = Path(folder).absolute()
        self.experiment = experiment
        self.flush_seconds = flush_seconds
        self.require_server = require_server
        self.final_flush_seconds = final_flush_seconds

        configured = uri or os.environ.get("MLFLOW_TRACKING_URI")
        self.uri = configured or f"sqlite:///{self.folder / 'mlflow.db'}"
        self.public_uri = redact_credentials(self.uri)
        self.uses_default_store = not configured
        self.artifacts = None if configured else (self.folder / "mlflow-artifacts").as_uri()
        self._experiment_id = ""
        self._run: MLflowRun | None = None

    @property
    def started(self) -> bool:
        return self._run is not None

    def check(self) -> None:
        check_store(self.uri, self.require_server)

    def start(
        self,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        folder: Path,
        *,
        step: int = 0,
        changes: Sequence[str] = (),
    ) -> MLflowRun:
        start = {
            "id": uuid.uuid4().hex,
            "name": name,
            "params": {key: str(value) for key, value in params.items()},
            "tags": dict(tags),
            "uri": self.public_uri,
            "experiment": self.experiment,
            "artifacts": self.artifacts,
        }
        spool = Spool(folder / "tracking")
        record_id = spool.start_or_resume(start, step, changes)
        self._run = MLflowRun(record_id, spool, self.uri, self.flush_seconds, self.final_flush_seconds)
        return self._run

    def open_hint(self, sweep: str = "") -> str:
        if is_server(self.uri):
            experiment_id = self._experiment_id or (self._run.experiment_id if self._run else "")
            return charts_url(self.uri, experiment_id, sweep) if experiment_id else ""
        words = ["python -m ztsnr.ui"]
        if not self.uses_default_store:
            words.append(f"tracking.uri={self.uri}")
        elif self.folder != Path("runs").absolute():
            words.append(f"tracking.folder={self.folder}")
        if sweep:
            words.append(f"sweep={sweep}")
        return " ".join(words)

    def start_sweep(self, name: str, definition: Mapping, sweep: str) -> str:
        client = self._connect()
        tags = {"ztsnr.sweep": sweep, "ztsnr.role": "sweep"} | code_version()
        tags["mlflow.note.content"] = f"`python -m ztsnr.train {definition['command']}`, not ended yet"
        run = client.create_run(self._experiment_id, run_name=name, tags=tags)
        for key, values in definition["axes"].items():
            client.log_param(run.info.run_id, key, ", ".join(values) or "a range")
        return run.info.run_id

    def update_sweep_progress(self, run_id: str, counts: Mapping[str, int]) -> None:
        try:
            self.check()
            client = make_client(self.uri)
            for outcome, count in counts.items():
                client.log_metric(run_id, f"runs/{outcome}", count, step=sum(counts.values()))
        except Exception as error:  # of MLflow, its database or its server
            logging.getLogger(__name__).warning("the sweep's progress was not recorded: %s", error)

    def finish_sweep(self, run_id: str, text: str, counts: Mapping[str, int]) -> None:
        self.update_sweep_progress(run_id, counts)
        try:
            self.check()
            client = make_client(self.uri)
            self._experiment_id = client.get_run(run_id).info.experiment_id
            client.set_tag(run_id, "mlflow.note.content", text)
            client.set_terminated(run_id, "FINISHED")
        except Exception as error:  # of MLflow, its database or its server
            raise TrackingError(f"The sweep's summary run in {self.uri} could not be ended: {error}") from error

    def close_orphans(self, sweep: str) -> None:
        client = self._connect()
        running = f"tags.`ztsnr.sweep` = '{sweep}' and tags.`ztsnr.role` = 'run' and attributes.status = 'RUNNING'"
        for run in client.search_runs([self._experiment_id], running, max_results=1000):
            client.set_tag(run.info.run_id, "ztsnr.outcome", "interrupted")
            client.set_terminated(run.info.run_id, "KILLED")

    def charts_url(self, server: str, sweep: str = "") -> str:
        """The address of the experiment's charts on `server`."""
        _, experiment = self.open_experiment()
        return charts_url(server, experiment.experiment_id, sweep)

    def open_experiment(self) -> "tuple[MlflowClient, Experiment]":
        """A client of the store, and the experiment in it. Raises TrackingError if either is missing."""
        database = sqlite_path(self.uri)
        if database is None or database.is_file():  # a client would create a missing database
            client = make_client(self.uri)
            experiment = client.get_experiment_by_name(self.experiment)
            if experiment is not None:
                return client, experiment
        raise TrackingError(
            f"{self.uri} has no experiment {self.experiment!r}. Train first, or set tracking.folder, tracking.uri "
            f"or tracking.experiment."
        )

    def _connect(self) -> "MlflowClient":
        """A client of the store. Creates the experiment if it does not exist."""
        client = create_store(self.uri)
        self._experiment_id = find_or_create_experiment(client, self.uri, self.experiment, self.artifacts)
        return client
