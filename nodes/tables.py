"""Tables of sigmas as ComfyUI can hold them.

ComfyUI samples on x = x0 + sigma * noise in float32, which cannot hold sigma = inf: CEILING stands for it.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ztsnr.core import checks
from ztsnr.core.errors import ConfigError
from ztsnr.core.noise import alpha
from ztsnr.core.schedule.table import STABLE_DIFFUSION, ScaledLinear, SigmaTable, ZeroTerminal, sigmas_from_alpha_bar

CEILING = 20000.0
"""The stand-in for sigma = inf. Lower, it would miss the limit by more than 1e-4 of x0; higher, float32 loses more."""


@dataclass(frozen=True, kw_only=True)
class Levels(SigmaTable):
    """A list of levels, ascending."""

    levels: tuple[float, ...]

    @cached_property
    def sigmas(self) -> Tensor:
        return torch.tensor(self.levels, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Stretched(SigmaTable):
    """A table shifted and scaled in alpha to run from sigma_min to sigma_max."""

    table: SigmaTable
    sigma_min: float
    sigma_max: float

    @cached_property
    def sigmas(self) -> Tensor:
        root = alpha(self.table.sigmas)
        low, high = alpha(torch.tensor([self.sigma_min, self.sigma_max], dtype=torch.float64))
        root = high + (low - high) * (root - root[-1]) / (root[0] - root[-1])
        sigmas = sigmas_from_alpha_bar(root.square())
        sigmas[0] = self.sigma_min  # the ends exactly, whatever the root rounds to
        sigmas[-1] = self.sigma_max
        return sigmas


def own_table(model) -> ScaledLinear:
    """The table of the model's own config, whatever nodes have patched."""
    settings = model.model.model_config.sampling_settings
    return ScaledLinear(
        beta_start=settings.get("linear_start", STABLE_DIFFUSION.beta_start),
        beta_end=settings.get("linear_end", STABLE_DIFFUSION.beta_end),
        steps=settings.get("timesteps", STABLE_DIFFUSION.steps),
    )


def table_between(model, zero_terminal: bool, sigma_min: float, sigma_max: float) -> SigmaTable:
    """The model's own table between other ends; with zero_terminal, Lin et al.'s, sigma_max standing for inf.

    sigma_min 0 is the own table's lowest level.
    """
    own = own_table(model)
    sigma_min = sigma_min or own.sigmas[0].item()
    checks.ascending("sigma_min", sigma_min, "sigma_max", sigma_max)
    if not zero_terminal:
        return Stretched(table=own, sigma_min=sigma_min, sigma_max=sigma_max)
    own_max = own.sigmas[-1].item()
    if sigma_min >= own_max:
        raise ConfigError(f"sigma_min must be below the model's own highest level, {own_max:.6g}, got {sigma_min}")
    table = ZeroTerminal(table=Stretched(table=own, sigma_min=sigma_min, sigma_max=own_max), terminal=math.inf)
    below = table.sigmas[-2].item()
    if sigma_max <= below:
        raise ConfigError(
            f"sigma_max stands for infinity and must exceed the level before it, {below:.6g}, got {sigma_max}. "
            f"Turn zero_terminal off for a model that ends there."
        )
    return replace(table, terminal=sigma_max)
