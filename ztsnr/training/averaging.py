"""Moving averages of the weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property

import torch
from torch import nn


class Average:
    """`module` holds the average of what of `network` requires a gradient, in float32 whatever the weights are:
    bfloat16 cannot express a change of 1 - decay. `weight_of` the newest weights, after so many updates.

    The first update takes the weights as they are. Buffers are the network's own; frozen parameters are left alone.
    The averages stay on the device where the network was when they were made.
    """

    def __init__(self, network: nn.Module, weight_of: Callable[[int], float]):
        self.module, self.weight_of, self.n_averaged = deepcopy(network), weight_of, torch.tensor(0)
        pairs = zip(self.module.parameters(), network.parameters(), strict=True)
        pairs = [(mine, live) for mine, live in pairs if live.requires_grad]
        self.averaged, self.current = ([pair[i] for pair in pairs] for i in (0, 1))
        for p in self.averaged:
            p.data = p.data.float()
        self.has_buffers = any(True for _ in network.buffers())
        self.module.requires_grad_(False).eval()

    @torch.no_grad()
    def update_parameters(self, network: nn.Module) -> None:
        """After every step of the network that it was made of."""
        weight = self.weight_of(int(self.n_averaged))
        if self.n_averaged == 0:
            torch._foreach_copy_(self.averaged, self.current)
        elif not self.alike:  # one by one: a copy of all would be as large as the average
            for mine, live in zip(self.averaged, self.current, strict=True):
                mine.lerp_(live.to(mine), weight)
        else:
            torch._foreach_lerp_(self.averaged, self.current, weight)
        if self.has_buffers:
            for mine, live in zip(self.module.buffers(), network.buffers(), strict=True):
                mine.copy_(live)
        self.n_averaged += 1

    @cached_property
    def alike(self) -> bool:
        """Whether the weights are float32, on the averages' device."""
        pairs = zip(self.averaged, self.current, strict=True)
        return all((mine.dtype, mine.device) == (live.dtype, live.device) for mine, live in pairs)

    @contextmanager
    def visiting(self, device: torch.device) -> Iterator[None]:
        """Inside, the averages are on this device."""
        home = self.averaged[0].device
        self.module.to(device)
        try:
            yield
        finally:
            for p in self.averaged:
                p.data = p.data.to(home)


def make_ema(network: nn.Module, decay: float, every: int = 1) -> Average:
    """`update_parameters(network)` after every `every` steps; `decay` is that of one step. Early on it is lower,
    (1 + n) / (10 + n), so that the average forgets the random weights it began with (as in TensorFlow's
    ExponentialMovingAverage)."""

    def weight(updates: int) -> float:
        steps = updates * every
        return 1 - min(decay, (1 + steps) / (10 + steps)) ** every

    return Average(network, weight)
