"""Tables: the finite list of sigmas of a discrete-time model, ascending from its cleanest level."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import torch
from torch import Tensor

from ztsnr.core.checks import Bounds, NonNegative, Part, key
from ztsnr.core.errors import ConfigError

UnitInterval = Annotated[float, Bounds(above=0, below=1)]
AtLeastTwo = Annotated[int, Bounds(at_least=2)]
Terminal = Annotated[float, Bounds(above=0, infinite=True)]
"""A terminal level: sigma = inf, or a finite stand-in."""


class SigmaTable(Part):
    """Between its levels a table is interpolated in the angle atan(sigma), which is finite at sigma = inf."""

    sigmas: Tensor
    """(T,) float64, ascending; the last may be inf."""

    @cached_property
    def angles(self) -> Tensor:
        return self.sigmas.atan()

    def index(self, sigma: Tensor) -> Tensor:
        """sigma (B,) -> its fractional index (B,) in [0, T - 1]; levels outside the table have its nearest end's."""
        angles = self.angles.to(sigma.device)
        angle = sigma.double().atan().clamp(angles[0], angles[-1])
        right = torch.searchsorted(angles, angle).clamp(1, len(angles) - 1)
        return right - (angles[right] - angle) / (angles[right] - angles[right - 1])

    def at(self, index: Tensor) -> Tensor:
        """The inverse: index (B,) in [0, T - 1] -> sigma (B,)."""
        left = index.long().clamp(max=len(self.sigmas) - 2)
        angles = self.angles.to(index.device)
        sigmas = self.sigmas.to(index.device)
        low = sigmas[left]
        high = sigmas[left + 1]
        between = torch.lerp(angles[left], angles[left + 1], index - left).tan().clamp(low, high)
        return torch.where(index == left, low, torch.where(index == left + 1, high, between))


def sigmas_from_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """DDPM's cumulative product, (T,) descending, to sigma = sqrt((1 - alpha_bar) / alpha_bar); 0 gives inf."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def rescale_to_zero(alphas: Tensor) -> Tensor:
    """sqrt(alpha_bar), (T,) descending, shifted and scaled so that the last is 0 and the first stays."""
    return (alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])


@dataclass(frozen=True, kw_only=True)
class BetaTable(SigmaTable):
    """A table of DDPM's betas, which rise from beta_start to beta_end."""

    beta_start: UnitInterval
    beta_end: UnitInterval
    steps: AtLeastTwo

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta_start > self.beta_end:
            raise ConfigError(
                f"{key('beta_start')} must not exceed {key('beta_end')}={self.beta_end}, got {self.beta_start}"
            )

    def betas(self) -> Tensor:
        """(T,) float64."""
        raise NotImplementedError

    @cached_property
    def sigmas(self) -> Tensor:
        return sigmas_from_alpha_bar((1 - self.betas()).cumprod(0))


@dataclass(frozen=True, kw_only=True)
class ScaledLinear(BetaTable):
    """Betas that are linear in their square root (Stable Diffusion, arXiv 2112.10752; diffusers: scaled_linear)."""

    def betas(self) -> Tensor:
        return torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.steps, dtype=torch.float64).square()


@dataclass(frozen=True, kw_only=True)
class Linear(BetaTable):
    """Betas in equal steps (DDPM, arXiv 2006.11239; diffusers: linear)."""

    def betas(self) -> Tensor:
        return torch.linspace(self.beta_start, self.beta_end, self.steps, dtype=torch.float64)


STABLE_DIFFUSION = ScaledLinear(beta_start=0.00085, beta_end=0.012, steps=1000)
"""The table of Stable Diffusion 1.5 and XL as released; conf/schedule/table/sdxl.yaml builds an equal one."""
STABLE_DIFFUSION_MAX = 14.6146
"""Its highest sigma, to four digits."""


@dataclass(frozen=True, kw_only=True)
class CosineTable(SigmaTable):
    """alpha_bar of a squared cosine, whose betas are clipped (arXiv 2102.09672; diffusers: squaredcos_cap_v2)."""

    offset: NonNegative
    beta_max: UnitInterval
    steps: AtLeastTwo

    @cached_property
    def sigmas(self) -> Tensor:
        time = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        alpha_bar = ((time + self.offset) / (1 + self.offset) * (math.pi / 2)).cos().square()
        betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=self.beta_max)
        return sigmas_from_alpha_bar((1 - betas).cumprod(0))


@dataclass(frozen=True, kw_only=True)
class ZeroTerminal(SigmaTable):
    """A table rescaled to zero terminal SNR (Lin et al., arXiv 2305.08891, Algorithm 1).

    The first sigma stays; the last becomes `terminal`: inf exactly, or a finite stand-in such as NovelAI's 20000.
    """

    table: SigmaTable
    terminal: Terminal

    def __post_init__(self) -> None:
        super().__post_init__()
        below = self.sigmas[-2].item()
        if not self.terminal > below:
            raise ConfigError(
                f"{key('terminal')} must exceed the sigma before it, {below:.2f}, got {self.terminal}. "
                f"Use inf for exactly zero SNR, or a stand-in such as 20000."
            )

    @cached_property
    def sigmas(self) -> Tensor:
        sigmas = sigmas_from_alpha_bar(rescale_to_zero(torch.rsqrt(1 + self.table.sigmas.square())).square())
        sigmas[-1] = self.terminal
        return sigmas
