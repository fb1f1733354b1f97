"""The record of runs. With delivery.py and store.py, which this calls, it is all that writes to MLflow."""

import logging
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlsplit

from PIL.Image import Image

import ztsnr
from ztsnr.core import checks
from ztsnr.core.errors import TrackingError
from ztsnr.tracking.delivery import Delivery, find_or_create_experiment
from ztsnr.tracking.spool import Spool
from ztsnr.tracking.store import (
    alone,
    charts_address,
    in_short,
    make_client,
    refuse_absent_server,
    refuse_unwritable,
    sqlite_path,
    without_secrets,
)

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
LONGEST_PAUSE = 15.0
"""Seconds between two attempts to reach a store that fails."""


class Tracker:
    """Keeps no record: tracking=none, and the base of those that do. Values are put down in the order of the calls.

    Once a run is started, nothing here raises: what cannot be delivered waits in the run's folder.
    """

    started = False
    """Whether a run was opened."""
    record = None
    """The run's own name for its record, the same after each resume."""

    def check(self) -> None:
        """Refuses, before any work, a record that cannot be kept."""

    def start(
        self,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        folder: Path,
        step: int = 0,
        changes: Sequence[str] = (),
    ) -> None:
        """Opens the record of the run in `folder`; where there is one it goes on, after `step` steps, with what has
        changed in the config. Its parameters stay as they were."""

    def metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def picture(self, name: str, picture: Image, step: int) -> None: ...

    def file(self, path: Path, folder: str | None = None) -> None: ...

    def describe(self, text: str, pictures: Sequence[str] = ()) -> None:
        """Markdown that a reader of the record sees first, with pictures among the files."""

    def finish(self, status: str, reason: str = "") -> None:
        """status: FINISHED, FAILED or KILLED. Returns when all is delivered, or waits for the store in vain."""

    def to_disk(self) -> None:
        """Returns when what was put down so far survives a loss of power."""

    def undelivered(self) -> str:
        """After finish: one line on what has not arrived and how it will, or ''."""
        return ""

    def how_to_open(self, sweep: str = "") -> str:
        """One line for the terminal, '' where there is nothing to open: all runs, or those of a sweep."""
        return ""

    def open_summary(self, name: str, definition: Mapping, sweep: str) -> str:
        """Makes the store and in it the run that stands for a sweep, with its command and axes; returns its id."""
        return ""

    def tally(self, run_id: str, counts: Mapping[str, int]) -> None:
        """How far a sweep is: runs by what became of them. What cannot be delivered is told at its end alone."""

    def close_summary(self, run_id: str, text: str, counts: Mapping[str, int]) -> None:
        """text: Markdown; counts: runs by what became of them. Raises TrackingError."""

    def end_orphans(self, sweep: str) -> None:
        """Closes runs of a sweep whose processes are gone."""


class NoTracker(Tracker):
    pass


class MLflow(Tracker):
    """Runs in MLflow, delivered in batches by a thread of its own from the spool in the run's folder.

    uri: a tracking URI; null means MLFLOW_TRACKING_URI, and failing that a SQLite database in `folder`, with the
    artifacts beside it. Every `flush_seconds` what is new is sent. `must_answer` refuses, before any work, a server
    that does not answer; without it a run begins all the same. A store that fails is tried again until the run ends,
    and then for `patience` seconds.
    """

    def __init__(
        self, *, uri: str | None, folder: str, experiment: str, flush_seconds: float, must_answer: bool, patience: float
    ):
        checks.finite("tracking.flush_seconds", flush_seconds, above=0)
        checks.finite("tracking.patience", patience, at_least=0)
        checks.flag("tracking.must_answer", must_answer)
        for name, value in (("folder", folder), ("experiment", experiment)):
            if not isinstance(value, str) or not value:
                raise TrackingError(f"tracking.{name} must be a name, got {value!r}")
        self.folder = Path(folder).absolute()
        self.is_default = not (uri or os.environ.get("MLFLOW_TRACKING_URI"))
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.folder / 'mlflow.db'}"
        self.experiment, self.flush_seconds = experiment, flush_seconds
        self.must_answer, self.patience = must_answer, patience
        self.experiment_id = self.spool = None
        self._error: Exception | None = None
        self._finishing, self._deadline = threading.Event(), None
        self._thread = threading.Thread(target=self._deliver, name="tracking", daemon=True)

    @property
    def artifacts(self) -> str | None:
        return (self.folder / "mlflow-artifacts").as_uri() if self.is_default else None

    def check(self):
        scheme = urlsplit(self.uri).scheme.split("+")[0]
        if scheme in ("http", "https"):
            if self.must_answer:
                refuse_absent_server(self.uri)
        elif path := sqlite_path(self.uri):
            refuse_unwritable(path.parent)
        elif scheme not in (*DATABASES, "databricks") and self.uri != "databricks":
            raise TrackingError(
                f"tracking.uri must begin with sqlite:///, http(s):// or another database's scheme, got {self.uri!r}. "
                f"MLflow no longer keeps runs in plain folders."
            )

    def start(self, name, params, tags, folder, step=0, changes=()):
        self.spool = Spool(folder / "tracking")
        if self.spool.begun is None:
            where = {"uri": without_secrets(self.uri), "experiment": self.experiment, "artifacts": self.artifacts}
            params = {key: str(value) for key, value in params.items()}
            self.spool.put("start", id=uuid.uuid4().hex, name=name, params=params, tags=dict(tags), **where)
        else:
            steps = ", ".join(map(str, [*self.spool.resumed, step]))
            self.spool.put("resume", step=step, steps=steps, changes=list(changes))
        self.started, self.record = True, self.spool.begun["id"]
        self._thread.start()

    def metrics(self, values, step):
        self.spool.metrics({name: float(value) for name, value in values.items()}, step)

    def picture(self, name, picture, step):
        self.spool.picture(name, picture, step)

    def file(self, path, folder=None):
        path = path.absolute()
        inside = path.is_relative_to(self.spool.run_folder.absolute())
        shown = path.relative_to(self.spool.run_folder.absolute()) if inside else path
        self.spool.put("file", path=str(shown), folder=folder)

    def describe(self, text, pictures=()):
        self.spool.put("describe", text=text, pictures=list(pictures))

    def finish(self, status, reason=""):
        if reason:
            self.describe(reason)
        self.spool.put("finish", status=status)
        self.spool.to_disk()
        self._deadline = time.monotonic() + self.patience
        self._finishing.set()
        self._thread.join()
        self._left, self.experiment_id = self.spool.undelivered(), self.spool.delivered.get("experiment_id")
        self.spool.close()

    def to_disk(self):
        self.spool.to_disk()

    def undelivered(self):
        lost = f"{self.spool.folder} could not be written: {self.spool.lost}. " if self.spool.lost else ""
        if not self._left:
            return lost
        return (
            f"{lost}{self._left} events of the record wait, since tracking.uri={without_secrets(self.uri)} failed: "
            f"{in_short(self._error)} To deliver them: python -m ztsnr.sync {self.spool.run_folder}"
        )

    def how_to_open(self, sweep=""):
        if self.uri.startswith("http"):
            return charts_address(self.uri, self.experiment_id, sweep) if self.experiment_id else ""
        folder = "" if self.folder == Path("runs").absolute() else f" tracking.folder={self.folder}"
        place = folder if self.is_default else f" tracking.uri={self.uri}"
        return "python -m ztsnr.ui" + place + (f" sweep={sweep}" if sweep else "")

    def open_summary(self, name, definition, sweep):
        with self._alone():
            client = make_client(self.uri)
            self.experiment_id = find_or_create_experiment(client, self.experiment, self.artifacts)
        tags = {"ztsnr.sweep": sweep, "ztsnr.role": "sweep"} | code_version()
        tags["mlflow.note.content"] = f"`python -m ztsnr.train {definition['command']}`, not ended yet"
        run = client.create_run(self.experiment_id, run_name=name, tags=tags)
        for key, values in definition["axes"].items():
            client.log_param(run.info.run_id, key, ", ".join(values) or "a range")
        return run.info.run_id

    def tally(self, run_id, counts):
        try:
            self.check()
            client = make_client(self.uri)
            for outcome, count in counts.items():
                client.log_metric(run_id, f"runs/{outcome}", count, step=sum(counts.values()))
        except Exception as error:  # of MLflow, its database or its server
            logging.getLogger(__name__).warning("the sweep's summary was not brought up to date: %s", error)

    def close_summary(self, run_id, text, counts):
        self.tally(run_id, counts)
        try:
            self.check()
            client = make_client(self.uri)
            self.experiment_id = client.get_run(run_id).info.experiment_id
            client.set_tag(run_id, "mlflow.note.content", text)
            client.set_terminated(run_id, "FINISHED")
        except Exception as error:  # as above
            raise TrackingError(f"The sweep's summary run in {self.uri} could not be ended: {error}") from error

    def end_orphans(self, sweep):
        client = make_client(self.uri)
        self.experiment_id = find_or_create_experiment(client, self.experiment, self.artifacts)
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

    def _deliver(self) -> None:
        """The thread: sends what is new every `flush_seconds`, and again, ever more seldom, while that fails."""
        delivery, pause = Delivery(self.spool, lambda: make_client(self.uri), self._alone), self.flush_seconds
        while True:
            deadline = self._deadline
            try:
                delivery.deliver()
                self._error, pause = None, self.flush_seconds
                if deadline is not None:
                    return
            except Exception as error:  # of MLflow, its database or its server: whatever it is, the run goes on
                self._error, pause = error, min(2 * pause, LONGEST_PAUSE)
                if deadline is not None:
                    if time.monotonic() > deadline:
                        return
                    time.sleep(min(pause, 1.0))
            if deadline is None:
                self._finishing.wait(pause)

    def _alone(self) -> AbstractContextManager:
        return alone(self.uri)


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
