"""Kills ztsnr.cache at random moments and restarts it until it finishes; the cache must equal an uninterrupted one.

    .venv/bin/python scripts/kill_cache.py FOLDER TINY --kills 20    # of make_photo_folder.py and make_tiny_sdxl.py

Each attempt runs the command with small shards, forked from this process to save its start-up time. Every other cache
has two processes; the script kills one of them. It compares each complete cache with an uninterrupted one and begins
the next, until it has made all its kills. It prints what the kills interrupted.
"""

import argparse
import collections
import os
import random
import signal
import tempfile
import time
from pathlib import Path

from diffusers import AutoencoderKL  # this and the imports below save each child the time
from kill_runs import end_of, start
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import ztsnr.cache
import ztsnr.caching.latents

SMALL_SHARD = 2**15
"""Bytes; a shard then has two to eight images."""
LOADED = (AutoencoderKL, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer)
"""Classes that the command imports lazily."""


def files(cache: Path) -> dict[str, bytes]:
    """Name -> content of the files that training reads."""
    contents = {}
    for kind in ("latents", "texts", "index"):
        for path in (cache / kind).iterdir():
            contents[str(path.relative_to(cache))] = path.read_bytes()
    return contents


def where(cache: Path) -> str:
    """Which stage a kill interrupted, by the files that it left."""
    if half := next(cache.glob("*/.*"), None):
        return f"while a file of {half.parent.name} was written"
    if list(cache.glob("index/*")):
        return "after the index"
    last = next((kind for kind in ("texts", "latents") if list(cache.glob(f"{kind}/*.safetensors"))), None)
    return f"after some of the {last}" if last else "before the first shard"


def survive(command: list[str], folder: Path, kills: int, seed: int) -> collections.Counter:
    """Counts kills by the stage that they interrupted. Raises AssertionError if a cache differs from the reference."""
    draw, stages, caches = random.Random(seed), collections.Counter(), 0

    def begin(name: str) -> int:
        return start(folder / name, *command, f"data.cache={folder / name / 'cache'}", program=ztsnr.cache.main)

    began = time.monotonic()
    assert end_of(begin("uninterrupted")) == 0, (folder / "uninterrupted" / "output.log").read_text()
    length, expected = time.monotonic() - began, files(folder / "uninterrupted" / "cache")
    shards = collections.Counter(name.split("/")[0] for name in expected)
    print(f"uninterrupted in {length:.1f} s: {dict(shards)} files", flush=True)
    while stages.total() < kills:
        name, attempts, codes = f"cache{caches}", 0, [-1]
        while any(codes):
            pids, attempts = [begin(name) for _ in range(1 + caches % 2)], attempts + 1
            if stages.total() < kills:
                time.sleep(draw.uniform(0, length))
                os.kill(pids[-1], signal.SIGKILL)
            codes = [end_of(pids.pop())]
            if codes[0]:
                stages[where(folder / name / "cache")] += 1
            codes += [end_of(pid) for pid in pids]
            assert set(codes) <= {0, -signal.SIGKILL}, (folder / name / "output.log").read_text()
        actual = files(folder / name / "cache")
        differences = {file for file in actual.keys() | expected.keys() if actual.get(file) != expected.get(file)}
        assert not differences, f"{name} differs in {sorted(differences)}"
        print(f"{name}: {attempts} attempts of {1 + caches % 2} processes, the same files", flush=True)
        caches += 1
    return stages


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("tiny", type=Path)
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    ztsnr.caching.latents.SHARD_BYTES = SMALL_SHARD
    paths = f"data.root={options.folder.absolute()}", f"model.pretrained={options.tiny.absolute()}"
    command = ["model=sdxl", "data=folder", *paths, "data.sizes.resolution=128", "trainer.batch_size=4"]
    with tempfile.TemporaryDirectory() as folder:
        stages = survive(command, Path(folder), options.kills, options.seed)
    for stage, times in stages.most_common():
        print(f"{times:3} kills {stage}")


if __name__ == "__main__":
    main()
