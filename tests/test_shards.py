"""A cache that several processes fill, and that may be killed at any time."""

import hashlib
import multiprocessing
import os
import random
import signal
import time
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import scaled
from ztsnr.caching.shards import ShardStore
from ztsnr.core.errors import CacheError


@dataclass(frozen=True)
class Item:
    number: int

    @property
    def group(self):
        return "even" if self.number % 2 == 0 else "odd"


def key(number):
    return hashlib.blake2b(str(number).encode(), digest_size=16).digest()


WANTED = {key(n): Item(n) for n in range(60)}


def encode(items):
    return {"value": torch.tensor([[item.number, item.number**2] for item in items])}


def slowly(items):
    time.sleep(0.002)
    return encode(items)


def contents(folder):
    """Key -> value, of all shards, each of which must be complete."""
    values = {}
    for path in sorted((folder / "things").glob("*.safetensors")):
        shard = load_file(path)
        assert len({number % 2 for number in shard["value"][:, 0].tolist()}) == 1
        for digest, value in zip(shard["key"], shard["value"], strict=True):
            values.setdefault(digest.numpy().tobytes(), value.tolist())
    return values


EXPECTED = {digest: [item.number, item.number**2] for digest, item in WANTED.items()}


def test_fill_encodes_only_missing_entries(tmp_path):
    encoded, store = [], ShardStore(tmp_path, "things")

    def counting(items):
        encoded.extend(item.number for item in items)
        return encode(items)

    some = dict(list(WANTED.items())[:20])
    store.fill(some, 8, counting)
    assert sorted(encoded) == list(range(20))
    known = store.fill(WANTED, 8, counting)
    assert sorted(encoded) == list(range(60))
    assert set(known) == set(WANTED)
    assert contents(tmp_path) == EXPECTED
    shard, row = known[key(7)]
    assert load_file(tmp_path / shard)["value"][row].tolist() == [7, 49]
    store.fill(WANTED, 5, counting)
    assert len(encoded) == 60


def test_broken_shard_is_reported_by_name(tmp_path):
    store = ShardStore(tmp_path, "things")
    store.fill(WANTED, 8, encode)
    path = next((tmp_path / "things").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CacheError, match=f"{path.name} is truncated or not a safetensors file.*Delete it"):
        store.keys()
    path.unlink()
    store.fill(WANTED, 8, encode)
    assert contents(tmp_path) == EXPECTED


def test_files_of_killed_writers_are_deleted_and_those_of_living_ones_kept(tmp_path):
    store = ShardStore(tmp_path, "things")
    store.fill(WANTED, 8, encode)
    dead, alive = (tmp_path / "things" / f".{name}.safetensors.1" for name in ("dead", "alive"))
    dead.write_bytes(b"half")
    alive.write_bytes(b"half")
    with store.lock("alive"):
        store.delete_unfinished()
        assert alive.exists()
    assert not dead.exists()


def fill_slowly(folder):
    ShardStore(folder, "things").fill(WANTED, 4, slowly)


def start(folder):
    process = multiprocessing.get_context("fork").Process(target=fill_slowly, args=(folder,))
    process.start()
    return process


@pytest.mark.slow
def test_cache_after_twenty_kills_equals_an_uninterrupted_one(tmp_path):
    draw, kills = random.Random(0), 0
    for _ in range(20):
        process = start(tmp_path)
        time.sleep(draw.uniform(0.001, 0.03))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
    assert kills > 3
    fill_slowly(tmp_path)
    assert contents(tmp_path) == EXPECTED
    assert not list((tmp_path / "things").glob(".*"))


@pytest.mark.slow
def test_four_processes_encode_each_entry_once(tmp_path):
    processes = [start(tmp_path) for _ in range(4)]
    for process in processes:
        process.join(scaled(60))
    assert [process.exitcode for process in processes] == [0] * 4
    assert contents(tmp_path) == EXPECTED
    assert sum(len(load_file(path)["key"]) for path in (tmp_path / "things").glob("*.safetensors")) == 60


def test_full_disk_is_reported_and_written_shards_stay(tmp_path, monkeypatch):
    from pathlib import Path

    write, written = Path.write_bytes, []

    def filling(self, content):
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(self)
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", filling)
    with pytest.raises(CacheError, match=r"No space left on device.*what is cached already stays"):
        ShardStore(tmp_path, "things").fill(WANTED, 8, encode)
    monkeypatch.undo()
    assert len(contents(tmp_path)) == 24
    ShardStore(tmp_path, "things").fill(WANTED, 8, encode)
    assert contents(tmp_path) == EXPECTED
