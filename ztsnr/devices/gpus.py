"""Shares a machine's GPUs among the processes of a launcher that starts several runs of a sweep at a time."""

import os
from pathlib import Path

from filelock import FileLock, Timeout

_held_locks: list[FileLock] = []
"""Until this process ends: a launcher's worker makes one run after the other on one GPU."""


def take_gpu(folder: Path, count: int) -> None:
    """Makes only one of `count` GPUs visible to this process: one that no other process with this folder holds.

    If all are held, processes share them. Call it before CUDA is used; it does nothing in a process that already has
    its GPU.
    """
    if count < 2 or _held_locks:
        return
    all_gpus = ",".join(map(str, range(count)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", all_gpus).split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[_take_slot(folder, count)]


def _take_slot(folder: Path, count: int) -> int:
    for slot in range(count):
        lock = FileLock(folder / f"gpu{slot}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        _held_locks.append(lock)
        return slot
    return os.getpid() % count
