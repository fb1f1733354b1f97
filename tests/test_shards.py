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

from tests.photos import QUIET
from tests.processes import scaled
from ztsnr.caching.shards import AdaptiveBatches, ShardStore
from ztsnr.core.errors import CacheError


@dataclass(frozen=True)
class Item:
    number: int

    @property
    def group(self):
        return "even" if self.number % 2 == 0 else "odd"


def key(number):
    return hashlib.blake2b(str(number).encode(), digest_size=16).digest()


ENTRIES = {key(n): Item(n) for n in range(60)}


class Squares:
    """An encoder that records what it encodes."""

    kind = label = unit = "things"
    batch_size = 100

    def __init__(self, seconds=0.0):
        self.seconds = seconds
        self.encoded = []

    def encode(self, batch, upcoming):
        time.sleep(self.seconds)
        self.encoded.extend(item.number for item in batch)
        return {"value": torch.tensor([[item.number, item.number**2] for item in batch])}


def fill(folder, shard_size=8, encoder=None, entries=ENTRIES):
    return ShardStore(folder, "things").fill(entries, encoder or Squares(), shard_size, QUIET)


def contents(folder):
    """Key -> value, of all shards, each of which must be complete."""
    values = {}
    for path in sorted((folder / "things").glob("*.safetensors")):
        shard = load_file(path)
        assert len({number % 2 for number in shard["value"][:, 0].tolist()}) == 1
        for digest, value in zip(shard["key"], shard["value"], strict=True):
            values.setdefault(digest.numpy().tobytes(), value.tolist())
    return values


EXPECTED = {digest: [item.number, item.number**2] for digest, item in ENTRIES.items()}


def test_fill_encodes_only_missing_entries(tmp_path):
    encoder = Squares()
    some = dict(list(ENTRIES.items())[:20])
    fill(tmp_path, 8, encoder, some)
    assert sorted(encoder.encoded) == list(range(20))
    known = fill(tmp_path, 8, encoder)
    assert sorted(encoder.encoded) == list(range(60))
    assert set(known) == set(ENTRIES)
    assert contents(tmp_path) == EXPECTED
    shard, row = known[key(7)]
    assert load_file(tmp_path / shard)["value"][row].tolist() == [7, 49]
    fill(tmp_path, 5, encoder)
    assert len(encoder.encoded) == 60


def test_batches_are_of_one_shard_and_name_those_that_follow(tmp_path):
    calls = []

    class Recording(Squares):
        batch_size = 3

        def encode(self, batch, upcoming):
            calls.append((len(batch), len(upcoming)))
            return super().encode(batch, upcoming)

    fill(tmp_path, 30, Recording())
    assert calls == 2 * ([(3, 6)] * 8 + [(3, 3), (3, 0)])
    assert contents(tmp_path) == EXPECTED


def test_broken_shard_is_reported_by_name(tmp_path):
    store = ShardStore(tmp_path, "things")
    fill(tmp_path)
    path = next((tmp_path / "things").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CacheError, match=f"{path.name} is truncated or not a safetensors file.*Delete it"):
        store.keys()
    path.unlink()
    fill(tmp_path)
    assert contents(tmp_path) == EXPECTED


def test_files_of_killed_writers_are_deleted_and_those_of_living_ones_kept(tmp_path):
    store = ShardStore(tmp_path, "things")
    fill(tmp_path)
    dead, alive = (tmp_path / "things" / f".{name}.safetensors.1" for name in ("dead", "alive"))
    dead.write_bytes(b"half")
    alive.write_bytes(b"half")
    with store.lock("alive"):
        store.delete_unfinished()
        assert alive.exists()
    assert not dead.exists()


def fill_slowly(folder):
    fill(folder, 4, Squares(seconds=0.002))


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
        fill(tmp_path)
    monkeypatch.undo()
    assert len(contents(tmp_path)) == 24
    fill(tmp_path)
    assert contents(tmp_path) == EXPECTED


def test_adaptive_batches_halve_when_out_of_memory_and_grow_back():
    tried, done, room = [], [], 5

    def encode(batch, upcoming):
        tried.append(len(batch))
        if len(batch) > room:
            raise torch.OutOfMemoryError
        return {"x": torch.tensor(batch)}

    parts = AdaptiveBatches(16)
    assert parts.map(list(range(100)), encode, done.append)["x"].tolist() == list(range(100))
    assert sum(done) == 100
    assert tried[:3] == [16, 8, 4]
    room = 99
    parts.map(list(range(400)), encode, done.append)
    assert max(tried[-8:]) == 16
    room = 0
    with pytest.raises(CacheError, match=r"data\.encoding\.tile"):
        parts.map([0, 1, 2], encode, done.append)


def test_adaptive_batches_raise_errors_other_than_out_of_memory():
    def encode(batch, upcoming):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        AdaptiveBatches(4).map([0, 1, 2], encode, lambda more: None)
