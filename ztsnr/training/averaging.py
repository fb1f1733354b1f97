"""Moving averages of the weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property

import torch
from torch import Tensor, nn


class Average:
    """A moving average of a network's trained parameters; `module` is a copy of the network that holds it.

    The average is always float32, since bfloat16 cannot express a change of 1 - decay. It stays on the device where the
    network was when the average was created. The first update copies the weights. Buffers follow the network's, frozen
    parameters never change.
    """

    def __init__(self, network: nn.Module, weight_at: Callable[[int], float]) -> None:
        """weight_at(n): the weight of the newest parameters after n updates, in [0, 1]."""
        self.module = deepcopy(network)
        self.weight_at = weight_at
        self.n_averaged = torch.tensor(0)
        self.averaged: list[Tensor] = []
        self._currents: list[Tensor] = []
        for average, current in zip(self.module.parameters(), network.parameters(), strict=True):
            if current.requires_grad:
                average.data = average.data.float()
                self.averaged.append(average)
                self._currents.append(current)
        self._has_buffers = any(True for _ in network.buffers())
        self.module.requires_grad_(False).eval()

    @torch.no_grad()
    def update_parameters(self, network: nn.Module) -> None:
        """To be called after a step of `network`, from which the average was created."""
        weight = self.weight_at(int(self.n_averaged))
        if self.n_averaged == 0:
            torch._foreach_copy_(self.averaged, self._currents)  # pyright: ignore[reportPrivateImportUsage]
        elif self._same_dtype_and_device:
            torch._foreach_lerp_(self.averaged, self._currents, weight)  # pyright: ignore[reportPrivateImportUsage]
        else:  # one at a time: copies of all weights would need as much memory as the average
            for average, current in zip(self.averaged, self._currents, strict=True):
                average.lerp_(current.to(average), weight)

        if self._has_buffers:
            for average, current in zip(self.module.buffers(), network.buffers(), strict=True):
                average.copy_(current)
        self.n_averaged += 1

    @cached_property
    def _same_dtype_and_device(self) -> bool:
        """Whether the weights are float32 and on the device of the averages."""
        for average, current in zip(self.averaged, self._currents, strict=True):
            if (current.dtype, current.device) != (average.dtype, average.device):
                return False
        return True

    @contextmanager
    def on_device(self, device: torch.device) -> Iterator[None]:
        """A context in which the averages are on this device."""
        home = self.averaged[0].device
        self.module.to(device)
        try:
            yield
        finally:
            for average in self.averaged:
                average.data = average.data.to(home)


def make_ema(network: nn.Module, decay: float, every: int = 1) -> Average:
    """An exponential average, updated after every `every` steps; `decay` applies to one step.

    Early on the decay is lower, (1 + n) / (10 + n), so that the average forgets the random initial weights (as in
    TensorFlow's ExponentialMovingAverage).
    """

    def weight_at(updates: int) -> float:
        steps = updates * every
        return 1 - min(decay, (1 + steps) / (10 + steps)) ** every

    return Average(network, weight_at)
