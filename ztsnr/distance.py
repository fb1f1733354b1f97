"""Distances between the network's output and the ideal one."""

from dataclasses import dataclass

import torch
from torch import Tensor


class Distance:
    def __call__(self, output: Tensor, ideal: Tensor) -> Tensor:
        """(B, ...), (B, ...) -> (B,), in float32 or better."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class MSE(Distance):
    """Mean over all elements of a sample of the squared difference."""

    def __call__(self, output: Tensor, ideal: Tensor) -> Tensor:
        wide = torch.promote_types(output.dtype, torch.float32)
        return (output.to(wide) - ideal.to(wide)).square().flatten(1).mean(1)
