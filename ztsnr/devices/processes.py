"""The processes of a run: which one this is, and its share of the work."""

import os

import torch
from accelerate import PartialState

from ztsnr.core.errors import ConfigError


def share(process: int, processes: int, batch_size: int, accumulate: int) -> tuple[range, list[slice]]:
    """A process's rows of a step's batch, and the parts of them that go through the network one by one."""
    size, rest = divmod(batch_size, processes * accumulate)
    if rest or not size:
        raise ConfigError(
            f"trainer.batch_size must be a multiple of {processes} process(es) x "
            f"trainer.gradient_accumulation_steps={accumulate}, got {batch_size}. "
            f"For the rest of a bucket: data.leftovers=merge"
        )
    rows = range(process * size * accumulate, (process + 1) * size * accumulate)
    return rows, [slice(start, start + size) for start in range(0, len(rows), size)]


def join_processes() -> PartialState:
    """The state of this process among those that torchrun or accelerate started; it is this one alone without them."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    # Left to itself, accelerate takes several processes on CPUs for so many that know nothing of each other.
    state = PartialState(cpu=True) if started > 1 and not torch.cuda.is_available() else PartialState()
    if state.num_processes != started:
        raise ConfigError(f"{started} processes were started, but accelerate joins {state.num_processes} of them")
    return state
