"""Kills ztsnr.cache at random moments, as kill -9 does, and starts it again until it ends: are its files the same?

    .venv/bin/python scripts/kill_cache.py FOLDER TINY --kills 20    # of make_photo_folder.py and make_tiny_sdxl.py

Each attempt is the command as it is, forked from this process so that its start takes no seconds, with shards of some
images each. At every other cache two processes work at once, of which one is killed. A cache that is whole is held
against one that was made in peace, and another begins, until there were so many kills. It says where they struck.
"""

import argparse
import collections
import os
import random
import signal
import tempfile
import time
from pathlib import Path

from diffusers import AutoencoderKL  # here, as what is below, so that no child has to
from kill_runs import end_of, start
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import ztsnr.cache
import ztsnr.caching.latents

SMALL_SHARD = 2**15
"""Bytes, of two to eight images here."""
LOADED = (AutoencoderKL, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer)
"""What the command asks its libraries for late."""


def files(cache: Path) -> dict[str, bytes]:
    """All that a training reads of the cache, by name."""
    found = (path for kind in ("latents", "texts", "index") for path in (cache / kind).iterdir())
    return {str(path.relative_to(cache)): path.read_bytes() for path in found}


def where(cache: Path) -> str:
    """What a kill left, for the list of what was struck."""
    if half := next(cache.glob("*/.*"), None):
        return f"while a file of {half.parent.name} was written"
    if list(cache.glob("index/*")):
        return "after the index"
    last = next((kind for kind in ("texts", "latents") if list(cache.glob(f"{kind}/*.safetensors"))), None)
    return f"after some of the {last}" if last else "before the first shard"


def survive(command: list[str], folder: Path, kills: int, seed: int) -> collections.Counter:
    """Where the kills struck. Raises AssertionError for a cache that ends other than one that was made in peace."""
    draw, struck, caches = random.Random(seed), collections.Counter(), 0

    def begin(name: str) -> int:
        return start(folder / name, *command, f"data.cache={folder / name / 'cache'}", program=ztsnr.cache.main)

    began = time.monotonic()
    assert end_of(begin("peace")) == 0, (folder / "peace" / "output.log").read_text()
    length, wanted = time.monotonic() - began, files(folder / "peace" / "cache")
    shards = collections.Counter(name.split("/")[0] for name in wanted)
    print(f"made in peace in {length:.1f} s: {dict(shards)} files", flush=True)
    while struck.total() < kills:
        name, attempts, codes = f"cache{caches}", 0, [-1]
        while any(codes):
            working, attempts = [begin(name) for _ in range(1 + caches % 2)], attempts + 1
            if struck.total() < kills:
                time.sleep(draw.uniform(0, length))
                os.kill(working[-1], signal.SIGKILL)
            codes = [end_of(working.pop())]
            if codes[0]:
                struck[where(folder / name / "cache")] += 1
            codes += [end_of(pid) for pid in working]
            assert set(codes) <= {0, -signal.SIGKILL}, (folder / name / "output.log").read_text()
        found = files(folder / name / "cache")
        other = {file for file in found.keys() | wanted.keys() if found.get(file) != wanted.get(file)}
        assert not other, f"{name} is another: {sorted(other)}"
        print(f"{name}: {attempts} attempts of {1 + caches % 2} processes, the same files", flush=True)
        caches += 1
    return struck


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("tiny", type=Path)
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    ztsnr.caching.latents.SHARD_BYTES = SMALL_SHARD
    places = f"data.root={given.folder.absolute()}", f"model.pretrained={given.tiny.absolute()}"
    command = ["model=sdxl", "data=folder", *places, "data.sizes.resolution=128", "trainer.batch_size=4"]
    with tempfile.TemporaryDirectory() as folder:
        struck = survive(command, Path(folder), given.kills, given.seed)
    for place, times in struck.most_common():
        print(f"{times:3} kills {place}")


if __name__ == "__main__":
    main()
