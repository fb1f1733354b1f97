"""Runs and sweeps in MLflow. What a run logs goes to the spool in its folder, and from there to the store."""

import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL.Image import Image

from ztsnr.core import checks
from ztsnr.core.errors import TrackingError
from ztsnr.tracking.code_version import code_version
from ztsnr.tracking.delivery import BackgroundDelivery
from ztsnr.tracking.spool import Spool
from ztsnr.tracking.store import (
    charts_url,
    check_store,
    create_store,
    find_or_create_experiment,
    first_line,
    is_server,
    make_client,
    redact_credentials,
    sqlite_path,
)
from ztsnr.tracking.tracker import TrackedRun, Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment


class MLflowTracker(Tracker):
    """uri: a tracking URI; null means MLFLOW_TRACKING_URI, and failing that a SQLite database in `folder`, with the
    artifacts beside it. New events are sent every `flush_seconds`. `require_server` refuses, before any work, a server
    that does not answer; without it a run begins all the same. Failed deliveries are tried again until the run ends,
    and then for `final_flush_seconds`.
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
    ) -> "MLflowRun":
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
        self._run = MLflowRun(record_id, spool, self)
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
        except Exception as error:  # as above
            raise TrackingError(f"The sweep's summary run in {self.uri} could not be ended: {error}") from error

    def close_orphans(self, sweep: str) -> None:
        client = self._connect()
        running = f"tags.`ztsnr.sweep` = '{sweep}' and tags.`ztsnr.role` = 'run' and attributes.status = 'RUNNING'"
        for run in client.search_runs([self._experiment_id], running, max_results=1000):
            client.set_tag(run.info.run_id, "ztsnr.outcome", "interrupted")
            client.set_terminated(run.info.run_id, "KILLED")

    def charts_url(self, server: str, sweep: str = "") -> str:
        """Where a browser finds the experiment on `server`."""
        _, experiment = self.open_experiment()
        return charts_url(server, experiment.experiment_id, sweep)

    def open_experiment(self) -> "tuple[MlflowClient, Experiment]":
        """A client of the store and the experiment in it. Raises TrackingError where there is none: it creates
        nothing."""
        database = sqlite_path(self.uri)
        if database is None or database.is_file():  # a client would create the file
            client = make_client(self.uri)
            experiment = client.get_experiment_by_name(self.experiment)
            if experiment is not None:
                return client, experiment
        raise TrackingError(
            f"{self.uri} has no experiment {self.experiment!r}. Train first, or set tracking.folder, tracking.uri "
            f"or tracking.experiment."
        )

    def _connect(self) -> "MlflowClient":
        """Creates the experiment where there is none."""
        client = create_store(self.uri)
        self._experiment_id = find_or_create_experiment(client, self.uri, self.experiment, self.artifacts)
        return client


class MLflowRun(TrackedRun):
    """Appends to its spool; a thread delivers what is new in it."""

    def __init__(self, record_id: str, spool: Spool, tracker: MLflowTracker) -> None:
        self.id = record_id
        self.experiment_id = ""
        self._spool = spool
        self._public_uri = tracker.public_uri
        self._final_flush_seconds = tracker.final_flush_seconds
        self._undelivered_count = 0
        self._delivery = BackgroundDelivery(spool, tracker.uri, tracker.flush_seconds)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        self._spool.add_metrics({name: float(value) for name, value in values.items()}, step)

    def log_image(self, name: str, image: Image, step: int) -> None:
        self._spool.add_image(name, image, step)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        path, run_folder = path.absolute(), self._spool.run_folder.absolute()
        if path.is_relative_to(run_folder):  # so that the run's folder can be moved before it is delivered
            path = path.relative_to(run_folder)
        self._spool.append("file", path=str(path), folder=folder)

    def describe(self, text: str, images: Sequence[str] = ()) -> None:
        self._spool.append("describe", text=text, images=list(images))

    def flush(self) -> None:
        self._spool.flush()

    def finish(self, status: str, reason: str = "") -> None:
        if reason:
            self.describe(reason)
        self._spool.append("finish", status=status)
        self._spool.flush()
        self._delivery.finish(self._final_flush_seconds)
        self._undelivered_count = self._spool.undelivered_count()
        self.experiment_id = self._spool.read_cursor().experiment_id
        self._spool.close()

    def undelivered(self) -> str:
        messages = []
        if self._spool.write_error:
            messages.append(f"{self._spool.folder} could not be written: {self._spool.write_error}.")
        if self._undelivered_count:
            messages.append(
                f"{self._undelivered_count} events of the record wait, since "
                f"tracking.uri={self._public_uri} failed: {first_line(self._delivery.error)} "
                f"To deliver them: python -m ztsnr.sync {self._spool.run_folder}"
            )
        return " ".join(messages)
