"""The MLflow store at a URI: checks, clients and addresses."""

import logging
import os
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from filelock import FileLock

from ztsnr.core.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")

MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # info lines would break the progress bar
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # deliveries have their own retries, which can be stopped
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds
}
"""MLflow's settings, unless the user's environment overrides them."""


def make_client(uri: str) -> "MlflowClient":
    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def create_store(uri: str) -> "MlflowClient":
    """A client; creates the database if it does not exist."""
    with _creation_lock(uri):
        return make_client(uri)


def is_server(uri: str) -> bool:
    return _scheme(uri) in ("http", "https")


def sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def check_store(uri: str, require_server: bool) -> None:
    """Raises TrackingError if runs cannot be recorded at `uri`."""
    if is_server(uri):
        if require_server:
            _require_answer(uri)
    elif path := sqlite_path(uri):
        _require_writable(path.parent)
    elif _scheme(uri) not in (*DATABASES, "databricks") and uri != "databricks":
        raise TrackingError(
            f"tracking.uri must begin with sqlite:///, http(s):// or another database's scheme, got {uri!r}. "
            f"MLflow no longer keeps runs in plain folders."
        )


def find_or_create_experiment(client: "MlflowClient", uri: str, name: str, artifacts: str | None) -> str:
    """The experiment's id. artifacts: where a new one stores its files; None: where the store chooses."""
    with _creation_lock(uri):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            return client.create_experiment(name, artifact_location=artifacts)
    if experiment.lifecycle_stage == "deleted":
        raise TrackingError(
            f"tracking.experiment={name} was deleted in this store: restore it, or choose a different name"
        )
    return experiment.experiment_id


def charts_url(server: str, experiment_id: str, sweep: str = "") -> str:
    """The address of the experiment's charts, of all runs or of one sweep."""
    query = "workflowType=machine_learning&compareRunsMode=CHART"
    if sweep:
        query += "&searchFilter=" + quote(f'tags."ztsnr.sweep" = "{sweep}" and tags."ztsnr.role" = "run"')
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def redact_credentials(uri: str) -> str:
    """The URI without a user's name and password, so that it may be written to a file."""
    return re.sub(r"//[^/@]*@", "//", uri)


def first_line(error: Exception | None) -> str:
    """The first line of an error's text. SQLAlchemy's texts are long and begin with the cause."""
    lines = str(error).splitlines() or [repr(error)]
    return f"{lines[0][:200].rstrip('.')}."


def _creation_lock(uri: str) -> AbstractContextManager:
    """Prevents two processes from creating the same SQLite database at once, which would break it."""
    path = sqlite_path(uri)
    return FileLock(path.with_name(f"{path.name}.lock")) if path else nullcontext()


def _scheme(uri: str) -> str:
    """http, sqlite, postgresql, ..., without the driver's name."""
    return urlsplit(uri).scheme.split("+")[0]


def _require_answer(uri: str) -> None:
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=3)
    except requests.RequestException as error:
        raise TrackingError(
            f"tracking.uri={uri} does not answer ({type(error).__name__}). Start that server, or use a different "
            f"tracking.uri, or tracking=none."
        ) from error


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        raise TrackingError(f"The folder of the record, {folder}, cannot be created: {error.strerror}") from error
    if not writable:
        raise TrackingError(f"The folder of the record, {folder}, is not writable. Choose a different tracking.folder.")
