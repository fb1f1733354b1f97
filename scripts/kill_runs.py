"""Kills a short run at random moments, as kill -9 does, and starts it again until it ends: the same weights and record?

    .venv/bin/python scripts/kill_runs.py --kills 50

Each attempt is a process of its own, forked from this one so that its start takes no seconds, which runs the training
command as it is: MLflow on SQLite, a checkpoint after every step. A run that reaches its end is compared with one that
was never killed, and another begins, until there were so many kills. It says where they struck.
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
    importlib.import_module(f"ztsnr.{module}")  # here, so that no child has to
for module in ("sklearn.datasets", "scipy.stats", "torch._dynamo", "mlflow.store.tracking.sqlalchemy_store"):
    importlib.import_module(module)

SHORT = ("model.width=96", "trainer.batch_size=32", "samples.steps=2", "samples.columns=1", "validation.samples=64")
SHORT += ("trainer.steps=40", "trainer.validate_every=20", "trainer.log_every=2", "trainer.checkpoint.every=1")
CHANGING = ("train/samples_per_second", "usage/train_seconds", "usage/peak_memory_gib")


def start(folder: Path, *arguments: str, program: Callable[[], None] = ztsnr.train.main) -> int:
    """A command in a process of its own, which stands in `folder` and writes output.log there; its process id."""
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
    """Waits for a process; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def content(folder: Path) -> tuple[dict, str]:
    """All that final.safetensors says, but for the order in which it does."""
    with open_tensors(folder / "final.safetensors") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not iterable)
        return file.metadata(), checksum(tensors)


def record(folder: Path, run: Path) -> dict[str, object]:
    """What the store in `folder` holds of a run: its status, and each metric's steps and values in order."""
    client = make_client(f"sqlite:///{folder / 'mlflow.db'}")
    found = client.get_run(json.loads((run / "tracking" / "delivered.json").read_text())["run_id"])
    kept = {
        key: [(entry.step, str(entry.value)) for entry in client.get_metric_history(found.info.run_id, key)]
        for key in found.data.metrics
        if key not in CHANGING
    }
    images = client.list_artifacts(found.info.run_id, "images")
    return kept | {"status": found.info.status, "images": len(images)}


def where(folder: Path) -> str:
    """What a kill left, for the list of what was struck."""
    if (folder / "final.safetensors").exists():
        return "after final.safetensors"
    checkpoints = folder / "checkpoints"
    if list(checkpoints.glob(".step_*")):
        return "while a checkpoint was written"
    if list(checkpoints.glob(".index*")):
        return "while the pointer was written"
    return "between saves" if saved_steps(checkpoints) else "before the first checkpoint"


def survive(folder: Path, kills: int, seed: int) -> collections.Counter:
    """Where the kills struck. Raises AssertionError for a run that ends other than one that was never killed."""
    draw, struck, runs = random.Random(seed), collections.Counter(), 1
    straight, began = folder / "straight", time.monotonic()
    command = (*SHORT, f"tracking.folder={folder}", "hydra.run.dir=.")
    assert end_of(start(straight, *command)) == 0, (straight / "output.log").read_text()
    length, wanted = time.monotonic() - began, (*content(straight), record(folder, straight))
    while sum(struck.values()) < kills:
        run, attempts, code = folder / f"run{runs}", 0, None
        while code != 0:
            pid, attempts = start(run, *command), attempts + 1
            if sum(struck.values()) < kills:
                time.sleep(draw.uniform(0.1, length) / math.sqrt(1 + attempts % 7))
                os.kill(pid, signal.SIGKILL)
            code = end_of(pid)
            assert code in (0, -signal.SIGKILL), (run / "output.log").read_text()
            struck[where(run)] += code != 0
        for found, same in zip((*content(run), record(folder, run)), wanted, strict=True):
            assert found == same, f"{run} is another: {found} in place of {same}"
        print(f"{run.name}: {attempts} attempts, the same weights and record", flush=True)
        runs += 1
    client = make_client(f"sqlite:///{folder / 'mlflow.db'}")
    assert len(client.search_runs([client.get_experiment_by_name("ztsnr").experiment_id])) == runs
    return struck


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--kills", type=int, default=50)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    memory = Path("/dev/shm")  # where there is no disk to wait for; what a process wrote survives its kill either way
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        struck = survive(Path(folder), given.kills, given.seed)
    for place, times in struck.most_common():
        print(f"{times:3} kills {place}")


if __name__ == "__main__":
    main()
