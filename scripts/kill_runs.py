"""Kills a short run at random moments and restarts it until it finishes; weights and record must not change.

    .venv/bin/python scripts/kill_runs.py --kills 50

Each attempt runs the training command in a process, forked from this one to save its start-up time: MLflow on SQLite,
a checkpoint after every step. The script compares each finished run with one that was never killed and begins the next,
until it has made all its kills. It prints what the kills interrupted.
"""

import argparse
import collections
import importlib
import json
import math
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

import ztsnr.train
from ztsnr.checkpoints.state_file import saved_steps
from ztsnr.io.tensors import checksum, open_tensors
from ztsnr.tracking.store import make_client

for module in ("training.trainer", "analysis.plots", "evaluation.quality"):
    importlib.import_module(f"ztsnr.{module}")  # saves each child the time
for module in ("sklearn.datasets", "scipy.stats", "torch._dynamo", "mlflow.store.tracking.sqlalchemy_store"):
    importlib.import_module(module)

SHORT = ("model.width=96", "trainer.batch_size=32", "samples.steps=2", "samples.columns=1", "validation.samples=64")
SHORT += ("trainer.steps=40", "trainer.validate_every=20", "trainer.log_every=2", "trainer.checkpoint.every=1")
CHANGING = ("train/samples_per_second", "usage/train_seconds", "usage/peak_memory_gib")


def start(folder: Path, *arguments: str, program: Callable[[], None] = ztsnr.train.main) -> int:
    """Runs a command in a new process in `folder`, where it writes output.log. Returns the process id."""
    folder.mkdir(parents=True, exist_ok=True)
    log = open(folder / "output.log", "a", buffering=1)  # noqa: SIM115 (it is the child's)
    pid = os.fork()
    if pid:
        log.close()
        return pid
    code = 1
    try:
        os.chdir(folder)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        torch.set_num_threads(1)
        sys.argv = ["python -m", *arguments]
        program()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def end_of(pid: int) -> int:
    """Waits for a process. Returns its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def content(folder: Path) -> tuple[dict, str]:
    """Metadata and a checksum of the tensors of final.safetensors, whatever their order in the file."""
    with open_tensors(folder / "final.safetensors") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not iterable)
        return file.metadata(), checksum(tensors)


def record(folder: Path, run: Path) -> dict[str, object]:
    """A run's record in the store in `folder`: status, number of images, and each metric's steps and values."""
    client = make_client(f"sqlite:///{folder / 'mlflow.db'}")
    stored_run = client.get_run(json.loads((run / "tracking" / "delivered.json").read_text())["run_id"])
    metrics = {
        key: [(entry.step, str(entry.value)) for entry in client.get_metric_history(stored_run.info.run_id, key)]
        for key in stored_run.data.metrics
        if key not in CHANGING
    }
    images = client.list_artifacts(stored_run.info.run_id, "images")
    return metrics | {"status": stored_run.info.status, "images": len(images)}


def where(folder: Path) -> str:
    """Which stage a kill interrupted, by the files that it left."""
    if (folder / "final.safetensors").exists():
        return "after final.safetensors"
    checkpoints = folder / "checkpoints"
    if list(checkpoints.glob(".step_*")):
        return "while a checkpoint was written"
    if list(checkpoints.glob(".index*")):
        return "while the pointer was written"
    return "between saves" if saved_steps(checkpoints) else "before the first checkpoint"


def survive(folder: Path, kills: int, seed: int) -> collections.Counter:
    """Counts kills by the stage that they interrupted. Raises AssertionError if a run differs from the reference."""
    draw, stages, runs = random.Random(seed), collections.Counter(), 1
    reference, began = folder / "uninterrupted", time.monotonic()
    command = (*SHORT, f"tracking.folder={folder}", "hydra.run.dir=.")
    assert end_of(start(reference, *command)) == 0, (reference / "output.log").read_text()
    length, expected = time.monotonic() - began, (*content(reference), record(folder, reference))
    while sum(stages.values()) < kills:
        run, attempts, code = folder / f"run{runs}", 0, None
        while code != 0:
            pid, attempts = start(run, *command), attempts + 1
            if sum(stages.values()) < kills:
                time.sleep(draw.uniform(0.1, length) / math.sqrt(1 + attempts % 7))
                os.kill(pid, signal.SIGKILL)
            code = end_of(pid)
            assert code in (0, -signal.SIGKILL), (run / "output.log").read_text()
            stages[where(run)] += code != 0
        for actual, value in zip((*content(run), record(folder, run)), expected, strict=True):
            assert actual == value, f"{run} is another: {actual} in place of {value}"
        print(f"{run.name}: {attempts} attempts, the same weights and record", flush=True)
        runs += 1
    client = make_client(f"sqlite:///{folder / 'mlflow.db'}")
    assert len(client.search_runs([client.get_experiment_by_name("ztsnr").experiment_id])) == runs
    return stages


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--kills", type=int, default=50)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    memory = Path("/dev/shm")  # where there is no disk to wait for; what a process wrote survives its kill either way
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        stages = survive(Path(folder), options.kills, options.seed)
    for stage, times in stages.most_common():
        print(f"{times:3} kills {stage}")


if __name__ == "__main__":
    main()
