import errno
import json
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ztsnr.checkpoints.weights import read_checkpoint, save_checkpoint
from ztsnr.core.errors import CheckpointError

CONFIG = {"target": {"_class_": "target.v"}, "seed": 0}


def network(seed=0, width=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "final.safetensors"
    save_checkpoint(path, {"raw": network(0), "ema": network(1)}, CONFIG, step=7, score=0.25)
    return path


def test_checkpoint_round_trip_is_exact_and_describes_itself(path):
    checkpoint = read_checkpoint(path)
    assert (checkpoint.config, checkpoint.step, checkpoint.score, checkpoint.names) == (CONFIG, 7, 0.25, ("raw", "ema"))
    for name, seed in (("raw", 0), ("ema", 1)):
        loaded = network(9)
        checkpoint.load_into(loaded, name)
        for key, value in network(seed).state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value)


def test_every_truncation_is_refused(path):
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "was not written by ztsnr"),
        ({"ztsnr.format": "999"}, "has format '999', this version reads '1'"),
        ({"ztsnr.format": "1"}, "broken metadata: 'ztsnr.step'"),
        ({"ztsnr.format": "1", "ztsnr.config": "{"}, "broken metadata"),
    ],
)
def test_foreign_and_missing_files_are_refused(tmp_path, metadata, message):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors is not a file"):
        read_checkpoint(tmp_path / "nothing.safetensors")


def test_load_into_refuses_other_networks_and_names(path):
    checkpoint = read_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"raw\.0\.weight is \(4, 3\), the model has \(5, 3\)"):
        checkpoint.load_into(network(width=5), "raw")
    with pytest.raises(CheckpointError, match=r"lacks raw\.2\.weight"):
        checkpoint.load_into(nn.Sequential(*network(), nn.Linear(4, 4)), "raw")
    with pytest.raises(CheckpointError, match="holds the weights raw, ema, not 'best'"):
        checkpoint.load_into(network(), "best")


def test_full_disk_leaves_only_the_previous_file(path, monkeypatch):
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="could not be written: No space left"):
        save_checkpoint(path, {"raw": network(5)}, CONFIG, step=8, score=0.1)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_metadata_is_plain_json_that_other_tools_can_read(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    assert json.loads(metadata["ztsnr.config"]) == CONFIG
