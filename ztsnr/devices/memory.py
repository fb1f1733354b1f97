"""The peak memory of a run: the GPU's, or without a GPU this process's."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ztsnr.core.errors import OutOfMemory

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
TRAINING_ADVICE = (
    "a larger trainer.gradient_accumulation_steps or a smaller trainer.batch_size; model.gradient_checkpointing=true; "
    "trainer.mixed_precision=bf16; trainer.ema_on_cpu=true; optimizer=adamw8bit; "
    "trainer.optimizer_in_backward=true trainer.max_grad_norm=null; for sdxl and sd15 also trainer=16gb, trainer=24gb, "
    "or model/train=lora model.train.base=bfloat16"
)


@contextmanager
def explain_oom(advice: str = TRAINING_ADVICE) -> Iterator[None]:
    """Replaces torch's error by OutOfMemory, which says how to use less memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[0]
        raise OutOfMemory(f"Out of memory: {reason}. Reduce memory with {advice}.") from error


def reset_peak() -> None:
    """Starts a new measurement, as for the next run of a process; where the system cannot, the old peak stays."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5")  # Linux: peak resident size back to the present one (man 5 proc)


def peak_gib() -> float:
    """Since the last reset_peak, in GiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    if STATUS.exists():
        (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
