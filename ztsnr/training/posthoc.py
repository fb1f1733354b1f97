"""Averages of the weights whose length is chosen after training (Karras et al., arXiv 2312.02696, section 3).

An average over t in [0, T] with density (gamma + 1) t^gamma / T^(gamma + 1) has the relative length std: the standard
deviation of t / T. Two are tracked, and snapshots of them are saved; any other is a combination of the snapshots, by
least squares between the densities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ztsnr.checkpoints.weights import read_checkpoint
from ztsnr.core import checks
from ztsnr.core.checks import Count, Part, key
from ztsnr.core.errors import CheckpointError, ConfigError
from ztsnr.training.averaging import Average

MAX_STD = 0.28
"""For gamma = 0, where all weights count the same, std is 1 / sqrt(12) = 0.2887."""


@dataclass(frozen=True, kw_only=True)
class PosthocEMA(Part):
    """stds: the relative lengths of two averages to track, or an empty list. every: steps between snapshots."""

    stds: list[float]
    every: Count

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stds:
            checks.numbers("stds", self.stds, above=0, at_most=MAX_STD)
        if len(self.stds) == 1 or len(set(self.stds)) < len(self.stds):
            raise ConfigError(f"{key('stds')} must be two different lengths or none, got {self.stds}")

    def track(self, network: nn.Module) -> dict[str, Average]:
        """Averages to update after every step, named by their lengths."""
        return {f"std_{std:g}": make_power_average(network, gamma_of(std)) for std in self.stds}


class PosthocAverage(NamedTuple):
    """A combination of snapshots."""

    weights: dict[str, Tensor]
    config: dict
    """Of the run."""
    step: int
    """The step of the last snapshot that it includes."""
    facts: dict
    """For the checkpoint: the run's facts, its std and the number of snapshots."""


def average_snapshots(folder: Path, std: float, step: int | None = None) -> PosthocAverage:
    """The average of relative length `std` in (0, MAX_STD] over the run up to its last snapshot, or up to `step`.

    folder: RUN/snapshots. Raises ConfigError, and CheckpointError where there is no snapshot.
    """
    checks.finite("std", std, above=0, at_most=MAX_STD)
    snapshots = [read_checkpoint(path) for path in sorted(folder.glob("step_*.safetensors"))]
    if step is not None:
        checks.integer("step", step, at_least=1)
        snapshots = [snapshot for snapshot in snapshots if snapshot.step <= step]
    if not snapshots:
        raise CheckpointError(f"{folder} has no snapshots: train with trainer.posthoc_ema.stds=[0.05,0.1]")

    states = []
    times_and_gammas = []
    for snapshot in snapshots:
        for name in snapshot.names:
            states.append(snapshot.state(name))
            times_and_gammas.append((snapshot.step, gamma_of(snapshot.facts["posthoc_stds"][name])))
    last = snapshots[-1]
    shares = combination(times_and_gammas, (last.step, gamma_of(std)))
    weights = combine(states, shares)

    facts = {name: value for name, value in last.facts.items() if name != "posthoc_stds"}  # statistics of latents
    facts |= {"posthoc_std": std, "snapshots": len(snapshots)}
    return PosthocAverage(weights, last.config, last.step, facts)


def make_power_average(network: nn.Module, gamma: float) -> Average:
    """The average with density ~ t^gamma: at step t its decay is (1 - 1 / t)^(gamma + 1)."""
    return Average(network, lambda updates: 1 - (1 - 1 / (updates + 1)) ** (gamma + 1))


def gamma_of(std: float) -> float:
    """The gamma of the relative length std: the largest root of (gamma + 2)² (gamma + 3) = (gamma + 1) / std²."""
    inverse = std**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Integral of the product of two averages' densities; each is (time, gamma). (..., 2), (..., 2) -> (...)."""
    time, gamma = np.moveaxis(one, -1, 0)
    other_time, other_gamma = np.moveaxis(other, -1, 0)
    shared = np.minimum(time, other_time)
    log_integrand = gamma * np.log(shared / time) + other_gamma * np.log(shared / other_time)
    log_integrand = log_integrand + np.log(shared / time / other_time)
    return (gamma + 1) * (other_gamma + 1) / (gamma + other_gamma + 1) * np.exp(log_integrand)


def combination(averages: Sequence[tuple[float, float]], time_and_gamma: tuple[float, float]) -> np.ndarray:
    """The coefficients (N,) of the averages, each (time, gamma), that add up to the one of time_and_gamma."""
    sources = np.asarray(averages, dtype=np.float64)
    target = np.asarray(time_and_gamma, dtype=np.float64)
    products = overlap(sources[:, None], sources[None])
    return np.linalg.lstsq(products, overlap(sources, target[None]), rcond=None)[0]


def combine(states: Sequence[Mapping[str, Tensor]], shares: Sequence[float] | np.ndarray) -> dict[str, Tensor]:
    """The weighted sum of the states' floating-point tensors, in their dtype; other tensors are the last state's."""
    combined = {}
    for name, last in states[-1].items():
        if last.is_floating_point():
            total = torch.zeros_like(last, dtype=torch.float64)
            for state, share in zip(states, shares, strict=True):
                total += state[name].double() * share
            combined[name] = total.to(last.dtype)
        else:
            combined[name] = last
    return combined
