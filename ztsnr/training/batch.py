"""The batch that one process trains on in one step."""

from typing import NamedTuple

import torch
from torch import Tensor


class TrainingBatch(NamedTuple):
    """This process's rows of a step's batch."""

    x0: Tensor
    """(B, ...)"""
    cond: dict[str, Tensor]
    """The network's conditions, each (B, ...); besides them, weight and mask of `Data.batch`."""
    noise: Tensor
    """The shape of x0."""
    u: Tensor
    """(B,) float64 in [0, 1): quantiles of the noise levels, in host memory, where coefficients are cheapest."""

    def part(self, rows: slice, device: torch.device) -> "TrainingBatch":
        """These rows; all tensors but u move to the device."""
        cond = {name: value[rows].to(device, non_blocking=True) for name, value in self.cond.items()}
        x0 = self.x0[rows].to(device, non_blocking=True)
        noise = self.noise[rows].to(device, non_blocking=True)
        return TrainingBatch(x0, cond, noise, self.u[rows])


def parts_of(count: int, accumulation_steps: int) -> list[slice]:
    """The rows [0, count) in equal parts, one for each pass through the network."""
    size = count // accumulation_steps
    return [slice(start, start + size) for start in range(0, count, size)]
