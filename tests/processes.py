"""Commands in a process of their own, forked from a server that has loaded what they need: no start takes seconds.

Python's forkserver is a fresh interpreter: a command inherits nothing of the tests but their environment. Sweeps by
joblib need an interpreter of their own, since its workers outlive a forked command.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ztsnr.tracking.server import start_server, wait_for_server

LOADED = (
    "ztsnr.training.trainer",
    "ztsnr.tracking.mlflow_tracker",
    "ztsnr.comparison.compare",
    "ztsnr.models.pretrained",
)
LOADED += ("ztsnr.analysis.plots", "ztsnr.evaluation.quality", "ztsnr.comparison.figures", "ztsnr.caching.folder")
LOADED += ("mlflow.store.tracking.sqlalchemy_store", "sklearn.datasets", "scipy.stats", "torch._dynamo", "peft")
SMALL_JOB = ["trainer=smoke", "trainer.steps=4", "model.width=16", "samples.steps=2", "samples.columns=2"]
SMALL_JOB += [
    "quality.samples=20",
    "quality.guidances=[1.0]",
    "quality/features=classifier",
    "quality.features.steps=5",
]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(list(LOADED))


def scaled(seconds: float) -> float:
    """A wait that suffices on an idle machine, times the number of processes that wait for each core."""
    load, *_ = os.getloadavg()
    return seconds * max(1.0, 2 * load / (os.cpu_count() or 1))


def wait_until(condition, seconds: float = 120) -> None:
    """AssertionError where it does not become true within `seconds` of an idle machine."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + scaled(seconds)
        time.sleep(0.02)


class MLflowServer:
    """A real server on loopback, with its database and artifacts in `folder`."""

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.folder = folder

    def start(self):
        """Returns when it answers."""
        database, log = f"sqlite:///{self.folder / 'server.db'}", self.folder / "server.log"
        artifacts = ("--artifacts-destination", str(self.folder / "artifacts"))
        self.process = start_server(database, self.port, log, *artifacts, new_session=True)
        wait_for_server(self.process, self.port, log)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def run(folder, module, *arguments, path=(), code=0) -> subprocess.CompletedProcess:
    """python -m ztsnr.MODULE in `folder`, with `path` to import from; AssertionError for another exit code."""
    with tempfile.TemporaryDirectory() as outputs:
        process = SERVER.Process(target=_command, args=(folder, outputs, f"ztsnr.{module}", arguments, path))
        process.start()
        process.join(scaled(300))
        process.kill()
        process.join()
        stdout, stderr = (Path(outputs, name).read_text() for name in ("1", "2"))
    assert process.exitcode == code, stderr
    return subprocess.CompletedProcess(arguments, code, stdout, stderr)


def _command(folder, outputs, module, arguments, path) -> None:
    for stream in (1, 2):
        os.dup2(os.open(f"{outputs}/{stream}", os.O_WRONLY | os.O_CREAT), stream)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.chdir(folder)
    sys.path[:0] = map(str, path)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
