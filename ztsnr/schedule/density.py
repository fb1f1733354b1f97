"""Training densities p(sigma), each a quantile function: u uniform in [0, 1) -> sigma, nondecreasing."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ztsnr import check
from ztsnr.errors import ConfigError
from ztsnr.noise import logsnr, sigma_from_logsnr
from ztsnr.schedule.table import SigmaTable

LAST_U = 1 - 2**-53
"""The largest u that a float64 draw can give."""


class Density:
    def sigma(self, u: Tensor) -> Tensor:
        """u (B,) float64 in [0, 1) -> sigma (B,) in [0, inf], nondecreasing."""
        raise NotImplementedError

    def log_prob(self, sigma: Tensor) -> Tensor:
        """Log density of ln sigma, (B,) -> (B,). Densities with atoms have none."""
        raise NotImplementedError(f"{type(self).__name__} has atoms, so it has no log_prob")

    @property
    def sigma_max(self) -> float:
        """The highest sigma that is ever drawn; may be inf."""
        return self.sigma(torch.tensor([LAST_U], dtype=torch.float64)).item()


@dataclass(frozen=True, kw_only=True)
class TableUniform(Density):
    """Every level of a table equally often, as discrete-time models are trained (DDPM, arXiv 2006.11239)."""

    table: SigmaTable

    def __post_init__(self):
        check.instance("density.table", self.table, SigmaTable)

    def sigma(self, u: Tensor) -> Tensor:
        sigmas = self.table.sigmas.to(u.device)
        return sigmas[(u * len(sigmas)).long()]


@dataclass(frozen=True, kw_only=True)
class Laplace(Density):
    """logSNR from a Laplace distribution with mean mu and scale b (Hang et al., arXiv 2407.03297)."""

    mu: float
    b: float

    def __post_init__(self):
        check.finite("density.mu", self.mu)
        check.finite("density.b", self.b, above=0)

    def sigma(self, u: Tensor) -> Tensor:
        side = 0.5 - u
        return sigma_from_logsnr(self.mu - self.b * side.sign() * torch.log1p(-2 * side.abs()))

    def log_prob(self, sigma: Tensor) -> Tensor:
        return -(logsnr(sigma) - self.mu).abs() / self.b - math.log(self.b)  # |d logsnr / d ln sigma| = 2


@dataclass(frozen=True, kw_only=True)
class TerminalMass(Density):
    """(1 - mass) of another density, and `mass` at the terminal level, so that sampling's start is trained."""

    density: Density
    terminal: float
    mass: float

    def __post_init__(self):
        check.instance("density.density", self.density, Density)
        check.finite("density.mass", self.mass, above=0, below=1)
        check.number("density.terminal", self.terminal, above=0)
        if self.density.sigma_max > self.terminal:
            raise ConfigError(
                f"density.terminal must be the highest level, but density.density draws up to "
                f"{self.density.sigma_max:.6g}, got {self.terminal}. Use inf."
            )

    def sigma(self, u: Tensor) -> Tensor:
        rest = 1 - self.mass
        inner = self.density.sigma((u / rest).clamp(max=LAST_U))
        return torch.where(u < rest, inner, torch.full_like(inner, self.terminal))
