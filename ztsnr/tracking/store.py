"""Where MLflow keeps records: addresses, clients, and the delivery of what waits."""

import logging
import os
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock

from ztsnr.core.errors import TrackingError
from ztsnr.tracking.delivery import Delivery
from ztsnr.tracking.spool import Spool


def alone(uri: str) -> AbstractContextManager:
    """Inside, no other process makes the same SQLite database: two at once leave it broken."""
    path = sqlite_path(uri)
    return FileLock(path.with_name(f"{path.name}.lock")) if path else nullcontext()


def send(folder: Path, uri: str | None) -> str:
    """Delivers what waits in a run's spool, to `uri` or to where the run began; returns what became of it."""
    spool = Spool(folder)
    try:
        waiting = spool.undelivered()
        if not waiting or spool.begun is None:
            return "nothing waits"
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or spool.begun["uri"]
        Delivery(spool, lambda: make_client(uri), lambda: alone(uri)).deliver()
        return f"{waiting} events delivered to {without_secrets(uri)}"
    except TrackingError:
        raise
    except Exception as error:  # of MLflow, its database or its server
        raise TrackingError(f"{folder}: {spool.undelivered()} events wait, since {in_short(error)}") from error
    finally:
        spool.close()


def send_all(folder: Path, uri: str | None) -> None:
    """Sends the spools of all runs in `folder` or below it, and prints a line for each.

    Raises TrackingError where there is none, or, after all were tried, for those that could not be delivered.
    """
    spools = sorted({file.parent for file in folder.rglob("events.jsonl")})
    if not spools:
        raise TrackingError(f"run={folder} has no tracking/events.jsonl in it or below it")
    failures = []
    for spool in spools:
        try:
            print(f"{spool}: {send(spool, uri)}", flush=True)
        except TrackingError as error:
            failures.append(str(error))
    if failures:
        raise TrackingError("\n".join(failures))


def make_client(uri: str):
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # information lines would break the progress bar
    os.environ.setdefault(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"
    )  # whoever delivers tries again, and can be asked to end
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def in_short(error: Exception | None) -> str:
    """The first line, which is the cause in those of SQLAlchemy, of hundreds of characters."""
    first = (str(error).splitlines() or [repr(error)])[0]
    return f"{first[:200].rstrip('.')}."


def without_secrets(uri: str) -> str:
    """The URI as it may stand in a file: without a user's name and password."""
    return re.sub(r"//[^/@]*@", "//", uri)


def sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def charts_address(server: str, experiment_id: str, sweep: str = "") -> str:
    """The experiment's charts, of all runs or of those of a sweep."""
    query = "workflowType=machine_learning&compareRunsMode=CHART"
    if sweep:
        query += "&searchFilter=" + quote(f'tags."ztsnr.sweep" = "{sweep}" and tags."ztsnr.role" = "run"')
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def refuse_absent_server(uri: str) -> None:
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=3)
    except requests.RequestException as error:
        raise TrackingError(
            f"tracking.uri={uri} does not answer ({type(error).__name__}). Start that server, or use another "
            f"tracking.uri, or tracking=none."
        ) from error


def refuse_unwritable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        raise TrackingError(f"The folder of the record, {folder}, cannot be made: {error.strerror}") from error
    if not writable:
        raise TrackingError(f"The folder of the record, {folder}, cannot be written. Choose another tracking.folder.")
