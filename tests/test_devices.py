"""Slots of GPUs, without any GPU: what matters is which process sees which."""

import os
import subprocess
import sys

import pytest

from tests.processes import scaled
from ztsnr.devices import gpus

TAKE = (
    "import os, sys, pathlib; from ztsnr.devices.gpus import take_gpu\n"
    "take_gpu(pathlib.Path(sys.argv[1]), 2); print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"
)


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.setattr(gpus, "_held_locks", [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")


def test_process_takes_one_gpu_for_all_its_runs(fresh, tmp_path):
    gpus.take_gpu(tmp_path, 2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4"
    gpus.take_gpu(tmp_path, 2)  # the next run of the same worker
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4"


@pytest.mark.parametrize("count", [0, 1])
def test_take_gpu_changes_nothing_with_fewer_than_two_gpus(fresh, tmp_path, count):
    gpus.take_gpu(tmp_path, count)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_processes_take_different_gpus_and_release_them_at_their_end(tmp_path):
    def start():
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "4,7"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-c", TAKE, str(tmp_path)], env=environment, **pipes)

    first, second = start(), start()
    visible_gpu = {process: process.stdout.readline().strip() for process in (first, second)}
    assert set(visible_gpu.values()) == {"4", "7"}
    third = start()  # one too many shares
    assert third.stdout.readline().strip() in ("4", "7")
    first.kill()
    first.wait()
    fourth = start()
    assert fourth.stdout.readline().strip() == visible_gpu[first]
    for process in (second, third, fourth):
        process.communicate("", timeout=scaled(30))
