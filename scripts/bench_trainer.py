"""Compares the trainer's step with a bare loop of the same network, batches, optimizer and clipping.

    .venv/bin/python scripts/bench_trainer.py

They alternate step by step in one process; the result is the median of the paired ratios, trainer / bare. The trainer
runs as in the main job: MLflow on SQLite, progress bar, random draws, finite checks. EMA is off in both. The bare
loop's batches and noise are in memory, so the ratio includes the cost of drawing them.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator

import torch
from rich.console import Console
from torch import nn

from ztsnr.config.registry import build, compose
from ztsnr.core.noise import alpha, expand, sigma_vp
from ztsnr.core.randomness import normal, stratified
from ztsnr.tracking.monitor import RunMonitor

PARTS = ("objective", "data", "optimizer", "lr_schedule", "validation", "samples")
QUIET = ("trainer.ema=null", "trainer.validate_every=100000", "trainer.sample_every=100000", "samples.steps=1")
CASES = {
    "digits, mlp (the main job)": (),
    "mnist, mlp of width 1024": ("data=mnist", "model.width=1024"),
}
BATCHES = 20
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def bare_steps(composed) -> Iterator[None]:
    """Trains v on the zero-terminal table and nothing else, one step for each next()."""
    torch.manual_seed(0)
    network, objective, data = (build(composed[name]) for name in ("model", "objective", "data"))
    network.to(DEVICE).train()
    optimizer, lr_schedule = build(composed.optimizer)(network.parameters()), build(composed.lr_schedule)
    rate, size, steps = composed.optimizer.lr, composed.trainer.batch_size, composed.trainer.steps
    batches = []
    for step in range(BATCHES):
        x0, cond = data.batch(step, range(size), size)
        sigma = objective.schedule.density.sigma(stratified(0, "u", step, range(size), size))
        noise = normal(0, "noise", step, range(size), data.shape)
        a, s, t = expand(alpha(sigma), x0), expand(sigma_vp(sigma), x0), objective.schedule.timesteps(sigma).float()
        batches.append([tensor.to(DEVICE) for tensor in (x0, noise, a, s, t, cond["label"])])
    for step in range(steps):
        x0, noise, a, s, t, label = batches[step % BATCHES]
        optimizer.param_groups[0]["lr"] = rate * lr_schedule.factor(step, steps)
        loss = nn.functional.mse_loss(network(a * x0 + s * noise, t, label=label), a * noise - s * x0)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        loss.item()
        yield


class Alternating(RunMonitor):
    """Runs a step of the bare loop after each step of the trainer, and times both."""

    def alternate(self, bare: Iterator[None]) -> None:
        self.bare, self.pairs, self.resumed = bare, [], time.perf_counter()

    def stepped(self, step, loss, norm, lr):
        super().stepped(step, loss, norm, lr)
        step_end = time.perf_counter()
        next(self.bare)
        now = time.perf_counter()
        self.pairs.append((step_end - self.resumed, now - step_end))
        self.resumed = now


def measure(composed) -> list[tuple[float, float]]:
    """Seconds of the trainer's and the bare loop's steps, in pairs, without the first tenth."""
    torch.manual_seed(0)
    trainer, tracker, network = (build(composed[name]) for name in ("trainer", "tracking", "model"))
    parts = {name: build(composed[name]) for name in PARTS}
    record = tracker.start("bench", {}, {}, tracker.folder)
    with open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere, force_terminal=True)
        with Alternating(record, console, trainer.steps, trainer.batch_size, trainer.log_every) as monitor:
            monitor.alternate(bare_steps(composed))
            trainer.fit(**parts, network=network, monitor=monitor)
    record.finish("FINISHED")
    return monitor.pairs[trainer.steps // 10 :]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=300)
    steps = arguments.parse_args().steps
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, {DEVICE}")
    for name, overrides in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            pairs = measure(compose(*QUIET, *overrides, f"trainer.steps={steps}", f"tracking.folder={folder}"))
        ratios = [trainer / bare for trainer, bare in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4)
        milliseconds = statistics.median(bare for _, bare in pairs) * 1e3
        print(f"{name}: {middle:.3f} (quartiles {low:.3f} to {high:.3f}), bare step {milliseconds:.1f} ms")


if __name__ == "__main__":
    main()
