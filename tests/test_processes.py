"""Which process this is, by what a launcher sets; two real processes are in test_trainer and test_resume."""

import pytest
import torch

from ztsnr.core.errors import ConfigError
from ztsnr.devices.processes import any_process, compute_device, is_main, join_processes, local_device, rank


@pytest.mark.parametrize(("environment", "number"), [({}, 0), ({"RANK": "0"}, 0), ({"RANK": "3"}, 3)])
def test_rank_is_the_launchers_and_0_without_one(monkeypatch, environment, number):
    monkeypatch.delenv("RANK", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert rank() == number
    assert is_main() == (number == 0)


@pytest.mark.parametrize(("local_rank", "index"), [("0", 0), ("1", 1), ("2", 0)])
def test_local_device_is_one_of_the_machines_gpus(monkeypatch, local_rank, index):
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local_device() == torch.device("cuda", index)


@pytest.mark.skipif(torch.cuda.is_available(), reason="computes on the GPU")
def test_devices_without_a_gpu_are_the_cpu():
    assert local_device() == compute_device() == torch.device("cpu")


@pytest.mark.parametrize("flag", [True, False])
def test_any_process_of_one_is_its_own_flag(flag):
    assert any_process(flag) is flag


def test_join_processes_refuses_a_different_number_than_was_started(monkeypatch):
    join_processes()  # this one only, before the launcher's variable says two
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were started, but accelerate joins 1 of them"):
        join_processes()
