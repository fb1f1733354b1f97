"""Measures how long a checkpoint pauses training, against torch.save of the same state, and the cost of the spool.

    .venv/bin/python scripts/bench_checkpoint.py

Saves alternate with torch.save to a file on the same disk; the result is the median of the paired ratios. `pause` is
the time until the loop continues, `complete` the time until file, checksum and pointer are on the disk. The first save,
which allocates memory, is shown separately. torch.save leaves its file in the system's cache.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from ztsnr.checkpoints.saver import DiskCheckpointer
from ztsnr.checkpoints.state_file import file_of
from ztsnr.config.registry import build, compose
from ztsnr.tracking.spool import Spool
from ztsnr.training.batch import TrainingBatch
from ztsnr.training.step import TrainStep

CASES = {"mlp of the main job": (), "500 MB of state": ("model.width=1080", "model.depth=5")}


def trained_step(composed) -> TrainStep:
    """Makes one step, so that the optimizer has its state."""
    network = build(composed.model)
    objective = build(composed.objective)
    trainer = build(composed.trainer)
    data = build(composed.data)
    train_step = TrainStep(trainer, objective, network, build(composed.optimizer))
    x0, cond = data.batch(0, train_step.rows_of(trainer.batch_size), trainer.batch_size)
    train_step(0, TrainingBatch(x0, cond, torch.randn_like(x0), torch.rand(len(x0), dtype=torch.float64)))
    return train_step


def measure(composed, folder: Path, saves: int) -> None:
    train_step = trained_step(composed)
    policy = build(composed.trainer).checkpoint
    pause, complete, torch_save = [], [], []
    with DiskCheckpointer(folder / "checkpoints", policy, {"config": {}}, None) as checkpointer:
        checkpointer.resume({"loop": train_step})
        for step in range(1, saves + 2):
            began = time.perf_counter()
            checkpointer._save(step)
            pause.append(time.perf_counter() - began)
            checkpointer._writer.wait()
            complete.append(time.perf_counter() - began)
            began = time.perf_counter()
            torch.save(train_step.state(), folder / "plain.pt")
            torch_save.append(time.perf_counter() - began)

    size = file_of(folder / "checkpoints", saves + 1).stat().st_size
    plain_size = os.path.getsize(folder / "plain.pt")
    ratios = [seconds / reference for seconds, reference in zip(pause[1:], torch_save[1:], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    seconds = {"pause": pause[1:], "complete": complete[1:], "torch.save": torch_save[1:]}
    times = ", ".join(f"{name} {statistics.median(values) * 1e3:.1f} ms" for name, values in seconds.items())
    print(f"  pause / torch.save {middle:.3f} (quartiles {low:.3f} to {high:.3f}); first save {pause[0] * 1e3:.1f} ms")
    print(f"  {times}; {size / 1e6:,.2f} MB written, torch.save {plain_size / 1e6:,.2f} MB", flush=True)


def measure_spool(folder: Path) -> None:
    """Measures 1,000 calls with one metric each, and 250 with four, as the monitor makes them."""
    spool = Spool(folder / "tracking")
    for calls, names in ((1000, ["train/loss"]), (250, ["train/loss", "train/grad_norm", "train/lr", "train/rate"])):
        began = time.perf_counter()
        for step in range(calls):
            spool.add_metrics({f"{name}{calls}": 0.123456789 for name in names}, step)
        print(f"  1,000 metrics in {calls} calls: {(time.perf_counter() - began) * 1e3:.1f} ms")
    print(f"  {spool.events.stat().st_size / 2000:.0f} bytes a metric")
    spool.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--saves", type=int, default=9)
    saves = arguments.parse_args().saves
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    for name, overrides in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            composed = compose(*overrides)
            network: nn.Module = build(composed.model)
            print(f"{name}, {sum(p.numel() for p in network.parameters()) / 1e6:.1f} M parameters")
            measure(composed, Path(folder), saves)
    with tempfile.TemporaryDirectory() as folder:
        print("spool")
        measure_spool(Path(folder))


if __name__ == "__main__":
    main()
