"""Starts MLflow's server, which shows the runs of a local database in a browser."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from ztsnr.core import checks
from ztsnr.core.errors import ConfigError, TrackingError
from ztsnr.tracking.mlflow_tracker import MLflowTracker
from ztsnr.tracking.store import MLFLOW_ENVIRONMENT, is_server
from ztsnr.tracking.tracker import Tracker

START_SECONDS = 60
"""How long a server may take to start on an idle machine; 7 to 15 seconds are usual."""


def show_runs(tracker: Tracker, port: int, sweep: str) -> None:
    """Prints the address of the runs of `tracker`, or of one sweep if it is named.

    For a local database it starts a server on loopback, which runs until Ctrl-C or SIGTERM. Raises ConfigError if the
    port is in use, TrackingError if there are no runs or the server does not start.
    """
    if not isinstance(tracker, MLflowTracker):
        raise ConfigError("The UI shows runs that MLflow recorded, so tracking must be mlflow.")
    checks.integer("port", port, at_least=1)
    tracker.check()
    if is_server(tracker.uri):  # it runs already
        print(tracker.charts_url(tracker.uri, sweep))
        return

    require_free_port(port)
    url = tracker.charts_url(f"http://127.0.0.1:{port}", sweep)
    log = tracker.folder / "mlflow-server.log"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the server ends with this command
    server = start_server(tracker.uri, port, log)
    try:
        wait_for_server(server, port, log)
        print(f"{url}\nCtrl-C stops it.", flush=True)
        server.wait()
    finally:
        server.terminate()
        server.wait()


def start_server(database_uri: str, port: int, log: Path, *options: str, new_session: bool = False) -> subprocess.Popen:
    """Starts the server, which does not answer at once: see wait_for_server.

    options: more arguments of `mlflow server`.
    new_session: makes the server and its workers a process group, which can be killed together.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database_uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", *options]
    environment = MLFLOW_ENVIRONMENT | dict(os.environ)
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # jobs would start 12 more processes
    with open(log, "wb") as output:
        return subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=new_session
        )


def require_free_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"port={port} cannot be used ({reason}). Choose a different one: port=5001") from error


def wait_for_server(server: subprocess.Popen, port: int, log: Path) -> None:
    """Returns when the server accepts connections. Raises TrackingError if it ends first or takes too long."""
    start = time.monotonic()
    while time.monotonic() < start + _start_seconds():
        if server.poll() is not None:
            raise TrackingError(f"mlflow server ended with code {server.returncode}; its reason is in {log}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.25)
    seconds = time.monotonic() - start
    raise TrackingError(f"mlflow server did not answer on port {port} within {seconds:.0f} s, see {log}")


def _start_seconds() -> float:
    """START_SECONDS, times the number of processes that wait for each core."""
    load, *_ = os.getloadavg()
    cores = os.cpu_count() or 1
    return START_SECONDS * max(1.0, 2 * load / cores)
