"""The processes of a run: which one this is, on which device it computes, and its share of the work."""

import os
from typing import TYPE_CHECKING

from ztsnr.core.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState
    from torch import nn


def rank() -> int:
    """This process's number among those of all machines, known from the launcher before they are joined."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process is the only one, or the first: the one that writes a run's folder."""
    return rank() == 0


def local_device() -> "torch.device":
    """This process's own GPU among the machine's; without a GPU the CPU."""
    import torch

    if torch.cuda.is_available():
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    return torch.device("cpu")


def device_of(network: "nn.Module") -> "torch.device":
    """The device of its first parameter; raises StopIteration for a network without parameters."""
    return next(network.parameters()).device


def join_processes() -> "PartialState":
    """Joins the processes that torchrun or accelerate started; without them, the state of this one.

    Raises ConfigError if accelerate joins a different number of processes.
    """
    import torch
    from accelerate import PartialState

    started = int(os.environ.get("WORLD_SIZE", "1"))
    # By default accelerate treats several processes on CPUs as independent ones.
    state = PartialState(cpu=True) if started > 1 and not torch.cuda.is_available() else PartialState()
    if state.num_processes != started:
        raise ConfigError(f"{started} processes were started, but accelerate joins {state.num_processes} of them")
    return state


def compute_device() -> "torch.device":
    """The device on which accelerate computes in this process."""
    device = join_processes().device
    if device is None:
        raise RuntimeError("accelerate has not chosen a device")
    return device


def any_process(flag: bool) -> bool:
    """Whether the flag is true in one of the joined processes; all of them must call this."""
    import torch

    processes = join_processes()
    if processes.num_processes == 1:
        return flag
    count = torch.tensor(float(flag), device=processes.device)
    torch.distributed.all_reduce(count)
    return count.item() > 0


def rows_of(process: int, processes: int, batch_size: int, accumulation_steps: int) -> range:
    """A process's rows of a step's batch. Raises ConfigError for a batch that cannot be divided into equal parts."""
    part_size, rest = divmod(batch_size, processes * accumulation_steps)
    if rest or not part_size:
        raise ConfigError(
            f"trainer.batch_size must be a multiple of {processes} process(es) x "
            f"trainer.gradient_accumulation_steps={accumulation_steps}, got {batch_size}. "
            f"For the rest of a bucket: data.leftovers=merge"
        )
    size = part_size * accumulation_steps
    return range(process * size, (process + 1) * size)
