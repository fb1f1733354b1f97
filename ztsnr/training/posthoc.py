"""Averages of the weights whose length is chosen after training (Karras et al., arXiv 2312.02696, section 3).

An average over t in [0, T] with density (gamma + 1) t^gamma / T^(gamma + 1) has the relative length std: the standard
deviation of t / T. Two are tracked, and snapshots of them kept; any other is a combination of the snapshots, by least
squares between the densities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from ztsnr.core import checks
from ztsnr.core.errors import ConfigError
from ztsnr.training.averaging import Average

LONGEST = 0.28
"""Of gamma = 0, where all weights count alike, it is 1 / sqrt(12) = 0.2887."""


@dataclass(frozen=True, kw_only=True)
class PosthocEMA:
    """`stds`: relative lengths of the averages to track, or none; `every`: steps between snapshots."""

    stds: list[float]
    every: int

    def __post_init__(self):
        checks.integer("trainer.posthoc_ema.every", self.every, at_least=1)
        if self.stds:
            checks.numbers("trainer.posthoc_ema.stds", self.stds, above=0, at_most=LONGEST)
        elif not isinstance(self.stds, list):
            raise ConfigError(f"trainer.posthoc_ema.stds must be a list such as [0.05, 0.1], got {self.stds!r}")
        if len(self.stds) == 1 or len(set(self.stds)) < len(self.stds):
            raise ConfigError(f"trainer.posthoc_ema.stds must be two different lengths or none, got {self.stds}")

    def track(self, network: nn.Module) -> dict[str, Average]:
        """`update_parameters(network)` after every step; their names say their lengths."""
        return {f"std_{std:g}": make_power_average(network, gamma_of(std)) for std in self.stds}


def make_power_average(network: nn.Module, gamma: float) -> Average:
    """The tracked average after t steps keeps (1 - 1 / t)^(gamma + 1) of itself."""
    return Average(network, lambda updates: 1 - (1 - 1 / (updates + 1)) ** (gamma + 1))


def gamma_of(std: float) -> float:
    """Inverse of std_of: the largest root of (gamma + 2)² (gamma + 3) = (gamma + 1) / std²."""
    inverse = std**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def std_of(gamma: float) -> float:
    return (gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5)


def overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Integral of the product of the densities of two averages, each (time, gamma), (..., 2), (..., 2) -> (...)."""
    (time, gamma), (end, power) = np.moveaxis(one, -1, 0), np.moveaxis(other, -1, 0)
    shared = np.minimum(time, end)
    total = gamma + power + 1
    within = gamma * np.log(shared / time) + power * np.log(shared / end) + np.log(shared / time / end)
    return (gamma + 1) * (power + 1) / total * np.exp(within)


def combination(kept: Sequence[tuple[float, float]], wanted: tuple[float, float]) -> np.ndarray:
    """How much of each kept average (time, gamma) makes the wanted one; (N,)."""
    kept, wanted = np.asarray(kept, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    products = overlap(kept[:, None], kept[None])
    return np.linalg.lstsq(products, overlap(kept, wanted[None]), rcond=None)[0]


def combine(states: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """The sum of the states' floating-point tensors by these shares, in float32; the rest is the last state's."""
    made = {}
    for name, last in states[-1].items():
        if last.is_floating_point():
            total = sum(state[name].double() * share for state, share in zip(states, shares, strict=True))
            made[name] = total.to(last.dtype)
        else:
            made[name] = last
    return made
