"""Tables: the finitely many sigmas that a discrete-time model knows, ascending from its cleanest level."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ztsnr.core import checks
from ztsnr.core.errors import ConfigError


class SigmaTable:
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
        angles, sigmas = self.angles.to(index.device), self.sigmas.to(index.device)
        low, high = sigmas[left], sigmas[left + 1]
        between = torch.lerp(angles[left], angles[left + 1], index - left).tan().clamp(low, high)
        return torch.where(index == left, low, torch.where(index == left + 1, high, between))


def sigmas_from_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """DDPM's cumulative product, (T,) descending, to sigma = sqrt((1 - alpha_bar) / alpha_bar); 0 gives inf."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def _check_betas(start, end, steps) -> None:
    checks.finite("table.beta_start", start, above=0, below=1)
    checks.finite("table.beta_end", end, above=0, below=1)
    checks.integer("table.steps", steps, at_least=2)
    if start > end:
        raise ConfigError(f"table.beta_start must not exceed table.beta_end={end}, got {start}")


@dataclass(frozen=True, kw_only=True)
class ScaledLinear(SigmaTable):
    """Betas that are linear in their square root (Stable Diffusion, arXiv 2112.10752; diffusers: scaled_linear)."""

    beta_start: float
    beta_end: float
    steps: int

    def __post_init__(self):
        _check_betas(self.beta_start, self.beta_end, self.steps)

    @cached_property
    def sigmas(self) -> Tensor:
        root = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.steps, dtype=torch.float64)
        return sigmas_from_alpha_bar((1 - root.square()).cumprod(0))


@dataclass(frozen=True, kw_only=True)
class Linear(SigmaTable):
    """Betas in equal steps (DDPM, arXiv 2006.11239; diffusers: linear)."""

    beta_start: float
    beta_end: float
    steps: int

    def __post_init__(self):
        _check_betas(self.beta_start, self.beta_end, self.steps)

    @cached_property
    def sigmas(self) -> Tensor:
        betas = torch.linspace(self.beta_start, self.beta_end, self.steps, dtype=torch.float64)
        return sigmas_from_alpha_bar((1 - betas).cumprod(0))


@dataclass(frozen=True, kw_only=True)
class CosineTable(SigmaTable):
    """alpha_bar of a squared cosine, whose betas are clipped (arXiv 2102.09672; diffusers: squaredcos_cap_v2)."""

    offset: float
    beta_max: float
    steps: int

    def __post_init__(self):
        checks.finite("table.offset", self.offset, at_least=0)
        checks.finite("table.beta_max", self.beta_max, above=0, below=1)
        checks.integer("table.steps", self.steps, at_least=2)

    @cached_property
    def sigmas(self) -> Tensor:
        time = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        alpha_bar = ((time + self.offset) / (1 + self.offset) * (math.pi / 2)).cos().square()
        betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=self.beta_max)
        return sigmas_from_alpha_bar((1 - betas).cumprod(0))


@dataclass(frozen=True, kw_only=True)
class ZeroTerminal(SigmaTable):
    """Another table with sqrt(alpha_bar) shifted and scaled to end in 0 (Lin et al., arXiv 2305.08891, Algorithm 1).

    The first sigma stays; the last becomes `terminal`: inf exactly, or a finite stand-in such as NovelAI's 20000.
    """

    table: SigmaTable
    terminal: float

    def __post_init__(self):
        checks.instance("table.table", self.table, SigmaTable)
        checks.number("table.terminal", self.terminal, above=0)
        below = self.sigmas[-2].item()
        if not self.terminal > below:
            raise ConfigError(
                f"table.terminal must exceed the sigma before it, {below:.2f}, got {self.terminal}. "
                f"Use inf for exactly zero SNR, or a stand-in such as 20000."
            )

    @cached_property
    def sigmas(self) -> Tensor:
        root = torch.rsqrt(1 + self.table.sigmas.square())  # sqrt(alpha_bar)
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        sigmas = sigmas_from_alpha_bar(root.square())
        sigmas[-1] = self.terminal
        return sigmas
