"""Tables: the finitely many sigmas that a discrete-time model knows, ascending from its cleanest level."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ztsnr import check
from ztsnr.errors import ConfigError


class SigmaTable:
    sigmas: Tensor
    """(T,) float64, ascending; the last may be inf."""


def sigmas_from_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """DDPM's cumulative product, (T,) descending, to sigma = sqrt((1 - alpha_bar) / alpha_bar); 0 gives inf."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


@dataclass(frozen=True, kw_only=True)
class ScaledLinear(SigmaTable):
    """Betas that are linear in their square root (Stable Diffusion, arXiv 2112.10752; diffusers: scaled_linear)."""

    beta_start: float
    beta_end: float
    steps: int

    def __post_init__(self):
        check.finite("table.beta_start", self.beta_start, above=0, below=1)
        check.finite("table.beta_end", self.beta_end, above=0, below=1)
        check.integer("table.steps", self.steps, at_least=2)
        if self.beta_start > self.beta_end:
            raise ConfigError(f"table.beta_start must not exceed table.beta_end={self.beta_end}, got {self.beta_start}")

    @cached_property
    def sigmas(self) -> Tensor:
        root = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, self.steps, dtype=torch.float64)
        return sigmas_from_alpha_bar((1 - root.square()).cumprod(0))


@dataclass(frozen=True, kw_only=True)
class ZeroTerminal(SigmaTable):
    """Another table with sqrt(alpha_bar) shifted and scaled to end in 0 (Lin et al., arXiv 2305.08891, Algorithm 1).

    The first sigma stays; the last becomes `terminal`: inf exactly, or a finite stand-in such as NovelAI's 20000.
    """

    table: SigmaTable
    terminal: float

    def __post_init__(self):
        check.instance("table.table", self.table, SigmaTable)
        check.number("table.terminal", self.terminal, above=0)
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
