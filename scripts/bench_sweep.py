"""A sweep against its training only, and against as many processes of its own.

    .venv/bin/python scripts/bench_sweep.py

Twelve short runs of the main job, which differ in their seeds. The bare loop is bench_trainer.py's: same network,
batches and optimizer, nothing else. The sweep is timed from its command to its end: imports, validation, samples, their
quality, MLflow on SQLite, and the comparison. Three sweeps leave out one after another what is not training.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time

import torch
from bench_trainer import DEVICE, bare_steps

from ztsnr.config.registry import compose

BASE = ("trainer.ema=null",)
LEAN = (*BASE, "quality=none", "trainer.validate_every=100000", "trainer.sample_every=100000", "samples.steps=1")
SWEEPS = {"the whole sweep": BASE, "without quality": (*BASE, "quality=none"), "training and tracking": LEAN}


def seconds_of(words: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-m", "ztsnr.train", *words]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return time.perf_counter() - began


def bare_seconds(runs: int, steps: str) -> float:
    """The last `runs` of one more, whose first warms up what all of them share."""
    for number in range(runs + 1):
        if number == 1:
            began = time.perf_counter()
        for _ in bare_steps(compose(*BASE, steps)):
            pass
    return time.perf_counter() - began


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=500)
    arguments.add_argument("--runs", type=int, default=12)
    given = arguments.parse_args()
    steps = f"trainer.steps={given.steps}"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, {DEVICE}")
    bare = bare_seconds(given.runs, steps)
    print(f"{given.runs} bare loops of {given.steps} steps: {bare:.1f} s")
    for name, words in SWEEPS.items():
        swept = seconds_of(["-m", f"seed=range(0,{given.runs})", steps, *words])
        print(f"{name}: {swept:.1f} s, {swept / bare:.3f} of the bare loops")
    apart = sum(seconds_of([f"seed={seed}", steps, *BASE]) for seed in range(given.runs))
    print(f"{given.runs} processes: {apart:.1f} s, {apart / bare:.3f} of the bare loops")


if __name__ == "__main__":
    main()
