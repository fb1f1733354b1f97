"""The server that ztsnr.ui starts."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from tests.processes import scaled
from ztsnr.config.registry import build, compose
from ztsnr.core.errors import ConfigError, TrackingError
from ztsnr.tracking.server import require_free_port, show_runs, wait_for_server


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def test_used_port_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port={port} cannot be used"):
            require_free_port(port)


def test_ui_without_mlflow_is_refused():
    with pytest.raises(ConfigError, match="tracking must be mlflow"):
        show_runs(build(compose("tracking=none", config="ui"), "tracking"), 5000, "")


def test_server_that_ends_before_it_answers_is_an_error_that_names_its_log(tmp_path):
    server = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(TrackingError, match=f"ended with code 3; its reason is in {tmp_path / 'log'}"):
        wait_for_server(server, free_port(), tmp_path / "log")


@pytest.mark.slow
def test_ui_serves_the_runs_until_ctrl_c(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    tracker = build(compose(f"tracking.folder={tmp_path / 'runs'}"), "tracking")
    tracker.check()
    tracker.start("run", {}, {}, tmp_path / "run").finish("FINISHED")

    port = free_port()
    command = [sys.executable, "-m", "ztsnr.ui", f"port={port}"]
    ui = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert ui.stdout.readline().startswith(f"http://127.0.0.1:{port}/#/experiments/1/runs?")
    assert urllib.request.urlopen(f"http://127.0.0.1:{port}/health").read() == b"OK"

    ui.send_signal(signal.SIGINT)
    ui.communicate(timeout=scaled(60))
    assert ui.returncode == 130
    require_free_port(port)
