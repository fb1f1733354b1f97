"""Compares the data pipeline with the bare work that it cannot avoid, in one process on the same images.

    .venv/bin/python scripts/bench_data.py FOLDER TINY    # of scripts/make_photo_folder.py and make_tiny_sdxl.py

Decoding: of files in memory, Pillow's bare decode / decode, resize and crop, in seconds of one CPU; and its parts.
Encoding: a loop over the bare VAE with the pixels ready in memory / ztsnr.cache's encoder, which reads, decodes and
stores. Waiting: share of a training step that waits for its batch. Index: seconds and memory to open an index of each
size and to read its first batch, in a separate process. The script also prints the machine's load.
"""

import argparse
import io
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ztsnr.caching import decode
from ztsnr.caching.colours import to_srgb_on
from ztsnr.caching.latents import EncodeRequest, LatentEncoder, views_of_image
from ztsnr.caching.prepare import inspect_images, plan_images
from ztsnr.caching.shards import AdaptiveBatches, write_shard
from ztsnr.config.registry import build, compose
from ztsnr.io.console import Progress, make_console
from ztsnr.models.pretrained import find_source

ENTRIES = (10**4, 10**6, 12 * 10**6)


def make_data(folder: Path, tiny: Path, cache: str, resolution: int):
    paths = f"data.root={folder}", f"data.cache={cache}", "model=sdxl", f"model.pretrained={tiny}"
    settings = f"data.sizes.resolution={resolution}", "trainer.batch_size=4", "data.held_out=0.2", "data.workers=1"
    return build(compose("data=folder", *paths, *settings).data)


def views_of(data) -> list[EncodeRequest]:
    """Every image's view, by bucket."""
    images = inspect_images(data, Progress(make_console(sys.stderr, quiet=True))).images
    plan = plan_images(images, np.zeros(len(images), dtype=bool), data)
    weights, views = find_source(data.pretrained).fingerprint("vae"), []
    for number, image in enumerate(images):
        views += views_of_image(number, image, plan, data, weights)
    return sorted(views, key=lambda request: request.group)


def encoding(data, rounds: int) -> list[float]:
    """Seconds of the bare VAE / seconds of the encoder, in each round."""
    views, model = views_of(data), find_source(data.pretrained)
    encoder = LatentEncoder(model, data.encoding, data.background, 1)
    vae = encoder.vae
    groups = [list(group) for _, group in itertools.groupby(views, key=lambda request: request.group)]
    size, ratios = data.encoding.batch_size, []
    ready = [[encoder.pixels(request) for request in group] for group in groups]
    for _ in range(rounds + 1):
        began = time.perf_counter()
        with torch.no_grad():
            for pixels in ready:
                for start in range(0, len(pixels), size):
                    x = torch.from_numpy(np.stack(pixels[start : start + size])).permute(0, 3, 1, 2).float() / 127.5 - 1
                    vae.encode(x).latent_dist.sample().half()
        middle = time.perf_counter()
        for group in groups:
            AdaptiveBatches(size).map(group, encoder.encode, lambda upcoming: None)
        ratios.append((middle - began) / (time.perf_counter() - middle))
    return ratios[1:]


def write_large(folder: Path, large: Path) -> None:
    """Writes the images in the size of photographs: JPEGs of about 12 million pixels."""
    for path in sorted(folder.glob("*.*")):
        try:
            image = Image.open(path).convert("RGB")
        except (OSError, Image.DecompressionBombError):
            continue
        scale = (12e6 / (image.width * image.height)) ** 0.5
        if max(image.size) < 4 * min(image.size) and image.width > 99:
            size = int(image.width * scale), int(image.height * scale)
            image.resize(size, Image.Resampling.BICUBIC).save(large / f"{path.stem}.jpg", quality=92)


def decoding(data, rounds: int) -> dict[str, list[float]]:
    """CPU seconds for all images in each round, by kind of work."""
    views = views_of(data)
    contents = [view.image.file.read() for view in views]
    pairs, background = list(zip(contents, views, strict=True)), data.background
    work = {
        "bare": lambda: [Image.open(io.BytesIO(content)).load() for content in contents],
        "upright": lambda: [
            decode.upright(c, s.view.resized, lambda image: to_srgb_on(image, background)) for c, s in pairs
        ],
        "whole": lambda: [decode.decode(c, s.view, background) for c, s in pairs],
        "read": lambda: [view.image.file.read_verified(view.image.digest) for view in views],
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, do in work.items():
            began = time.process_time()
            do()
            times[name].append(time.process_time() - began)
    return {name: seconds[1:] for name, seconds in times.items()}


def tell_decoding(name: str, times: dict[str, list[float]]) -> None:
    tell(
        f"{name}: Pillow's bare decode / ours",
        [b / w for b, w in zip(times["bare"], times["whole"], strict=True)],
    )
    middle = {part: statistics.median(seconds) / statistics.median(times["bare"]) for part, seconds in times.items()}
    resizing = middle["whole"] - middle["upright"]
    parts = f"decode to upright RGB {middle['upright']:.2f}, resize and crop {resizing:.2f}"
    print(f"    in units of the bare decode: {parts}; besides, read and digest {middle['read']:.2f}", flush=True)


def waiting(data, steps: int) -> list[float]:
    """Share of each step that is spent in data.batch; the step is forward, backward and AdamW of the tiny U-Net."""
    network = build(compose("model=sdxl", f"model.pretrained={data.pretrained}", "data=digits").model).train()
    optimizer, shares = torch.optim.AdamW(network.parameters(), 1e-4), []
    for step in range(steps + 2):
        began = time.perf_counter()
        x0, cond = data.batch(step, range(4), 4)
        ready = time.perf_counter()
        network(x0, torch.full((4,), 500.0), **cond).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        shares.append((ready - began) / (time.perf_counter() - began))
    return shares[2:]


def write_synthetic(data, entries: int) -> Path:
    """Writes an index with this number of entries, which all refer to the existing shards. Returns its path."""
    index, count = data.train, entries // 2
    draw = torch.Generator().manual_seed(0)

    def numbers(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, (entries, *shape), generator=draw, dtype=torch.int32)

    arrays = {
        "sizes": index.sizes[:1].repeat(2, 1),
        "counts": torch.tensor([[count - 5, 5], [entries - count - 5, 5]]),
        "original": numbers(4000, 2),
        "weight": torch.ones(entries),
        "view_shard": index.arrays["view_shard"][:1].expand(entries, 1),
        "view_row": numbers(1 + int(index.arrays["view_row"][: index.counts[0].sum()].max()), 1),
        "crop": numbers(500, 1, 2),
        "text_start": torch.arange(entries),
        "text_count": torch.ones(entries, dtype=torch.int32),
        "text": torch.randperm(entries, generator=draw).int(),
        "text_shard": torch.zeros(entries, dtype=torch.int32),
        "text_row": numbers(len(index.arrays["text_row"])),
    }
    path = Path(data.cache) / "synthetic.safetensors"
    contiguous = {name: value.contiguous() for name, value in arrays.items()}
    write_shard(path, contiguous, {"ztsnr.index": json.dumps(index.facts)})
    return path


PROBE = """
import sys, time
from pathlib import Path
from ztsnr.data.index import open_index
from ztsnr.data.order import Order
import numpy as np, torch
def memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssFile"))) / 1024
before, began = memory(), time.perf_counter()
index = open_index(sys.argv[1], "", sys.argv[2])
opened = time.perf_counter()
order = Order(counts=tuple(index.counts[:, 0].tolist()), batches=(64, 64), leftovers="merge", seed=0)
bucket, samples = order.batch(0, range(64))
samples = samples + index.starts[bucket, 0]
index.latents(samples, np.zeros(64, dtype=np.int64)); index.texts(index.text_numbers(samples, np.zeros(64)))
print(opened - began, time.perf_counter() - opened, memory() - before)
"""


def opening(data, entries: int) -> tuple[float, float, float]:
    """Seconds to open the index, seconds to read the first batch of 64, and MB of memory for both."""
    path = write_synthetic(data, entries)
    command = [sys.executable, "-c", PROBE, data.cache, path.name]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    path.unlink()
    return tuple(map(float, output.split()))


def tell(name: str, ratios: list[float]) -> None:
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{name}: {middle:.3f} (quartiles {low:.3f} to {high:.3f})", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("tiny", type=Path)
    arguments.add_argument("--resolution", type=int, default=256)
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    machine = f"{os.cpu_count()} cores of {platform.machine()} with a load of {os.getloadavg()[0]:.1f}"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {machine}")
    with tempfile.TemporaryDirectory() as cache:
        data = make_data(options.folder, options.tiny, cache, options.resolution)
        tell_decoding("decode, resize and crop", decoding(data, options.rounds))
        with tempfile.TemporaryDirectory() as large:
            write_large(options.folder, Path(large))
            photographs = decoding(make_data(Path(large), options.tiny, cache, 1024), options.rounds)
        tell_decoding("the same, of JPEGs of 12 million pixels for buckets of 1024²", photographs)
        tell("encoding: bare VAE / ours", encoding(data, options.rounds))
        data.prepare()
        tell("waiting for data, share of a step", waiting(data, 4 * options.rounds))
        for entries in ENTRIES:
            open_seconds, batch_seconds, memory = opening(data, entries)
            print(
                f"index of {entries:,}: open {open_seconds:.3f} s, first batch {batch_seconds:.3f} s, {memory:.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
