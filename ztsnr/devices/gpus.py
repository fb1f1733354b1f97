"""Which of a machine's GPUs a process takes, where a launcher starts several runs of a sweep at a time."""

import os
from pathlib import Path

from filelock import FileLock, Timeout

_held: list[FileLock] = []
"""Until this process ends: a launcher's worker makes one run after another on one GPU."""


def take_gpu(folder: Path, count: int) -> None:
    """Leaves this process one of `count` GPUs to see, which no other that asks in the same folder holds.

    Where all are held, they are shared in turn. Before CUDA is used; nothing is done for a process that has its own.
    """
    if count < 2 or _held:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[_slot(folder, count)]


def _slot(folder: Path, count: int) -> int:
    for slot in range(count):
        lock = FileLock(folder / f"gpu{slot}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        _held.append(lock)
        return slot
    return os.getpid() % count
