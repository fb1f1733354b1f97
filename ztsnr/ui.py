"""Opens the record of runs in MLflow's UI: python -m ztsnr.ui [port=5000] [sweep=ID]"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from omegaconf import DictConfig

from ztsnr.config.command import command
from ztsnr.config.registry import build
from ztsnr.core import checks
from ztsnr.core.errors import ConfigError, TrackingError

START_SECONDS = 60


@command("ui")
def main(composed: DictConfig) -> None:
    tracker = build(composed.tracking)
    checks.integer("port", composed.port, at_least=1)
    tracker.check()
    if tracker.uri.startswith("http"):
        print(tracker.address(tracker.uri, composed.sweep))
        return
    refuse_used_port(composed.port)
    address = tracker.address(f"http://127.0.0.1:{composed.port}", composed.sweep)
    log = tracker.folder / "mlflow-server.log"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the server ends with this command
    with open(log, "wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracker.uri]
            + f"--host 127.0.0.1 --port {composed.port} --workers 1".split(),
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # these jobs would be 12 more processes
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(server, composed.port, log)
        print(f"{address}\nCtrl-C stops it.", flush=True)
        server.wait()
    finally:
        server.terminate()
        server.wait()


def refuse_used_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"port={port} cannot be used ({reason}). Choose another: port=5001") from error


def wait_for(server: subprocess.Popen, port: int, log: Path) -> None:
    """Until the server answers; it takes 7 to 15 seconds."""
    for _ in range(START_SECONDS * 4):
        if server.poll() is not None:
            raise TrackingError(f"mlflow server ended with code {server.returncode}; its reason is in {log}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.25)
    raise TrackingError(f"mlflow server did not answer on port {port} within {START_SECONDS} s, see {log}")


if __name__ == "__main__":
    main()
