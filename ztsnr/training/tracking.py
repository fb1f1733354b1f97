"""The record of runs. This is the only module that imports MLflow."""

import logging
import os
import queue
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from urllib.parse import quote, urlsplit

from filelock import FileLock
from PIL.Image import Image

import ztsnr
from ztsnr import check
from ztsnr.errors import TrackingError

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
METRICS_A_CALL, PARAMS_A_CALL = 1000, 100  # MLflow's limits


class Tracker:
    """Keeps no record: tracking=none, and the base of those that do. Values are put down in the order of the calls."""

    started = False
    """Whether a run was opened."""

    def check(self) -> None:
        """Refuses, before any work, a record that cannot be kept."""

    def start(self, name: str, params: Mapping[str, object], tags: Mapping[str, str]) -> None: ...

    def metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def picture(self, name: str, picture: Image, step: int) -> None: ...

    def file(self, path: Path, folder: str | None = None) -> None: ...

    def describe(self, text: str, pictures: Sequence[str] = ()) -> None:
        """Markdown that a reader of the record sees first, with pictures among the files."""

    def finish(self, status: str, reason: str = "") -> None:
        """status: FINISHED, FAILED or KILLED. Returns when all is delivered."""

    def how_to_open(self, sweep: str = "") -> str:
        """One line for the terminal, '' where there is nothing to open: all runs, or those of a sweep."""
        return ""

    def open_summary(self, name: str, definition: Mapping, sweep: str) -> str:
        """Makes the store and in it the run that stands for a sweep, with its command and axes; returns its id."""
        return ""

    def tally(self, run_id: str, counts: Mapping[str, int]) -> None:
        """How far a sweep is: runs by what became of them. What cannot be delivered is told at its end alone."""

    def close_summary(self, run_id: str, text: str, counts: Mapping[str, int]) -> None:
        """text: Markdown; counts: runs by what became of them."""

    def end_orphans(self, sweep: str) -> None:
        """Closes runs of a sweep whose processes are gone."""


class NoTracker(Tracker):
    pass


class MLflow(Tracker):
    """Runs in MLflow, delivered in batches by a thread of its own.

    uri: a tracking URI; null means MLFLOW_TRACKING_URI, and failing that a SQLite database in `folder`, with the
    artifacts beside it. `flush_seconds` bounds how long a metric waits for its batch.
    """

    def __init__(self, *, uri: str | None, folder: str, experiment: str, flush_seconds: float):
        check.finite("tracking.flush_seconds", flush_seconds, above=0)
        for name, value in (("folder", folder), ("experiment", experiment)):
            if not isinstance(value, str) or not value:
                raise TrackingError(f"tracking.{name} must be a name, got {value!r}")
        self.folder = Path(folder).absolute()
        self.is_default = not (uri or os.environ.get("MLFLOW_TRACKING_URI"))
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.folder / 'mlflow.db'}"
        self.experiment, self.flush_seconds = experiment, flush_seconds
        self.experiment_id = self.run_id = None
        self._events: queue.SimpleQueue = queue.SimpleQueue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._deliver, name="tracking", daemon=True)

    def check(self):
        scheme = urlsplit(self.uri).scheme.split("+")[0]
        if scheme in ("http", "https"):
            _refuse_absent_server(self.uri)
        elif path := sqlite_path(self.uri):
            _refuse_unwritable(path.parent)
        elif scheme not in (*DATABASES, "databricks") and self.uri != "databricks":
            raise TrackingError(
                f"tracking.uri must begin with sqlite:///, http(s):// or another database's scheme, got {self.uri!r}. "
                f"MLflow no longer keeps runs in plain folders."
            )

    def start(self, name, params, tags):
        self.started = True
        self._put("start", (name, dict(params), dict(tags)))
        self._thread.start()

    def metrics(self, values, step):
        now = int(time.time() * 1000)
        self._put("metrics", [(name, float(value), now, step) for name, value in values.items()])

    def picture(self, name, picture, step):
        self._put("picture", (name, picture, step))

    def file(self, path, folder=None):
        self._put("file", (path, folder))

    def describe(self, text, pictures=()):
        self._put("describe", (text, pictures))

    def finish(self, status, reason=""):
        if reason:
            self.describe(reason)
        self._put("finish", (status,))
        self._thread.join()
        if self._error is not None:
            raise TrackingError(
                f"The record in tracking.uri={self.uri} is incomplete, the run itself is not affected: {self._error}"
            ) from self._error

    def how_to_open(self, sweep=""):
        if self.uri.startswith("http"):
            return charts_address(self.uri, self.experiment_id, sweep)
        folder = "" if self.folder == Path("runs").absolute() else f" tracking.folder={self.folder}"
        place = folder if self.is_default else f" tracking.uri={self.uri}"
        return "python -m ztsnr.ui" + place + (f" sweep={sweep}" if sweep else "")

    def open_summary(self, name, definition, sweep):
        with self._alone():
            client = make_client(self.uri)
            self.experiment_id = self._find_or_create_experiment(client)
        tags = {"ztsnr.sweep": sweep, "ztsnr.role": "sweep"} | code_version()
        tags["mlflow.note.content"] = f"`python -m ztsnr.train {definition['command']}`, not ended yet"
        run = client.create_run(self.experiment_id, run_name=name, tags=tags)
        for key, values in definition["axes"].items():
            client.log_param(run.info.run_id, key, ", ".join(values) or "a range")
        return run.info.run_id

    def tally(self, run_id, counts):
        client = make_client(self.uri)
        try:
            for outcome, count in counts.items():
                client.log_metric(run_id, f"runs/{outcome}", count, step=sum(counts.values()))
        except Exception as error:  # of MLflow, its database or its server
            logging.getLogger(__name__).warning("the sweep's summary was not brought up to date: %s", error)

    def close_summary(self, run_id, text, counts):
        client = make_client(self.uri)
        self.experiment_id = client.get_run(run_id).info.experiment_id
        self.tally(run_id, counts)
        client.set_tag(run_id, "mlflow.note.content", text)
        client.set_terminated(run_id, "FINISHED")

    def end_orphans(self, sweep):
        client = make_client(self.uri)
        self.experiment_id = self._find_or_create_experiment(client)
        running = f"tags.`ztsnr.sweep` = '{sweep}' and tags.`ztsnr.role` = 'run' and attributes.status = 'RUNNING'"
        for run in client.search_runs([self.experiment_id], running, max_results=1000):
            client.set_tag(run.info.run_id, "ztsnr.outcome", "interrupted")
            client.set_terminated(run.info.run_id, "KILLED")

    def address(self, server: str, sweep: str = "") -> str:
        """Where a browser finds the experiment on `server`."""
        return charts_address(server, self.find_experiment()[1].experiment_id, sweep)

    def find_experiment(self):
        """A client of the store and the experiment in it; where there is none it is not made, but refused."""
        database = sqlite_path(self.uri)
        absent = database is not None and not database.is_file()  # a client would create it
        client = None if absent else make_client(self.uri)
        found = client and client.get_experiment_by_name(self.experiment)
        if found is None:
            raise TrackingError(
                f"{self.uri} holds no experiment {self.experiment!r}. Train first, or name the place by "
                f"tracking.folder, tracking.uri or tracking.experiment."
            )
        return client, found

    def _put(self, kind: str, content) -> None:
        self._events.put((kind, content))

    def _deliver(self) -> None:
        """The thread: everything in order, metrics gathered into batches. An error ends delivery; finish() tells."""
        try:
            with self._alone():
                client = make_client(self.uri)
            metrics, kind = [], ""
            while kind != "finish":
                try:
                    kind, content = self._events.get(timeout=self.flush_seconds if metrics else None)
                except queue.Empty:
                    kind = "flush"
                if kind == "metrics":
                    metrics += content
                if metrics and (kind != "metrics" or len(metrics) >= METRICS_A_CALL):
                    self._send_metrics(client, metrics)
                    metrics = []
                if kind not in ("metrics", "flush"):
                    getattr(self, f"_{kind}")(client, *content)
        except Exception as error:  # of MLflow, its database or its server: whatever it is, finish() raises it
            self._error = error

    def _alone(self) -> AbstractContextManager:
        """Inside, no other process makes the same SQLite database: two at once leave it broken."""
        path = sqlite_path(self.uri)
        return FileLock(path.with_name(f"{path.name}.lock")) if path else nullcontext()

    def _start(self, client, name, params, tags) -> None:
        from mlflow.entities import Param

        with self._alone():
            self.experiment_id = self._find_or_create_experiment(client)
        run = client.create_run(self.experiment_id, run_name=name, tags=tags)
        self.run_id = run.info.run_id
        entries = [Param(key, str(value)) for key, value in params.items()]
        for start in range(0, len(entries), PARAMS_A_CALL):
            client.log_batch(self.run_id, params=entries[start : start + PARAMS_A_CALL])

    def _find_or_create_experiment(self, client) -> str:
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            artifacts = (self.folder / "mlflow-artifacts").as_uri() if self.is_default else None
            return client.create_experiment(self.experiment, artifact_location=artifacts)
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"tracking.experiment={self.experiment} was deleted in this store: restore it, or choose another name"
            )
        return found.experiment_id

    def _send_metrics(self, client, metrics) -> None:
        from mlflow.entities import Metric

        for start in range(0, len(metrics), METRICS_A_CALL):
            client.log_batch(self.run_id, metrics=[Metric(*entry) for entry in metrics[start : start + METRICS_A_CALL]])

    def _picture(self, client, name, picture, step) -> None:
        client.log_image(self.run_id, picture, key=name, step=step)

    def _file(self, client, path, folder) -> None:
        client.log_artifact(self.run_id, str(path), folder)

    def _describe(self, client, text, pictures) -> None:
        shown = [f"![{name}](get-artifact?path={name}&run_uuid={self.run_id})" for name in pictures]
        client.set_tag(self.run_id, "mlflow.note.content", f"{text}\n\n{' '.join(shown)}")

    def _finish(self, client, status) -> None:
        client.set_terminated(self.run_id, status)


def make_client(uri: str):
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # information lines would break the progress bar
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def charts_address(server: str, experiment_id: str, sweep: str = "") -> str:
    """The experiment's charts, of all runs or of those of a sweep."""
    query = "workflowType=machine_learning&compareRunsMode=CHART"
    if sweep:
        query += "&searchFilter=" + quote(f'tags."ztsnr.sweep" = "{sweep}" and tags."ztsnr.role" = "run"')
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def code_version() -> dict[str, str]:
    """Tags that tell which code ran: the commit of the checkout this package stands in, if it stands in one."""
    here = Path(ztsnr.__file__).parent
    tags = {"mlflow.source.name": "ztsnr.train", "mlflow.source.type": "LOCAL", "ztsnr.version": ztsnr.__version__}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if git("ls-files", "--", "__init__.py"):  # not a virtual environment inside some other checkout
            tags["mlflow.source.git.commit"] = git("rev-parse", "HEAD")
            tags["git dirty"] = str(bool(git("status", "--porcelain"))).lower()
    except (OSError, subprocess.SubprocessError):
        return tags  # no git, or no checkout: an installed package
    return tags


def _refuse_absent_server(uri: str) -> None:
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=3)
    except requests.RequestException as error:
        raise TrackingError(
            f"tracking.uri={uri} does not answer ({type(error).__name__}). Start that server, or use another "
            f"tracking.uri, or tracking=none."
        ) from error


def _refuse_unwritable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        raise TrackingError(f"The folder of the record, {folder}, cannot be made: {error.strerror}") from error
    if not writable:
        raise TrackingError(f"The folder of the record, {folder}, cannot be written. Choose another tracking.folder.")
