"""Compares a sweep with bare training loops, and with separate processes for the same runs.

    .venv/bin/python scripts/bench_sweep.py

The sweep has twelve short runs of the main job with different seeds. bench_trainer.py's bare loop has the same
network, batches and optimizer, nothing else. The time of the sweep includes imports, validation, samples, their
quality, MLflow on SQLite, and the comparison. Each of the three sweeps does less besides training than the one before.
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
SWEEPS = {"complete sweep": BASE, "without quality": (*BASE, "quality=none"), "training and tracking": LEAN}


def seconds_of(words: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-m", "ztsnr.train", *words]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return time.perf_counter() - began


def bare_seconds(runs: int, steps: str) -> float:
    """Seconds of `runs` loops, after another one to warm up."""
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
    options = arguments.parse_args()
    steps = f"trainer.steps={options.steps}"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, {DEVICE}")
    bare = bare_seconds(options.runs, steps)
    print(f"{options.runs} bare loops of {options.steps} steps: {bare:.1f} s")
    for name, words in SWEEPS.items():
        sweep_seconds = seconds_of(["-m", f"seed=range(0,{options.runs})", steps, *words])
        print(f"{name}: {sweep_seconds:.1f} s, {sweep_seconds / bare:.3f} of the bare loops")
    separate = sum(seconds_of([f"seed={seed}", steps, *BASE]) for seed in range(options.runs))
    print(f"{options.runs} processes: {separate:.1f} s, {separate / bare:.3f} of the bare loops")


if __name__ == "__main__":
    main()
