"""Densities made of others."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ztsnr import check
from ztsnr.errors import ConfigError
from ztsnr.schedule.density import LAST_U, Density

LOG_OF_0, LOG_OF_INF = -746.0, 710.0
"""Beyond these, exp gives 0 and inf in float64."""


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
        if self.density.highest > self.terminal:
            raise ConfigError(
                f"density.terminal must be the highest level, but density.density draws up to "
                f"{self.density.highest:.6g}, got {self.terminal}. Use inf, or truncate density.density."
            )

    def sigma(self, u: Tensor) -> Tensor:
        rest = 1 - self.mass
        inner = self.density.sigma((u / rest).clamp(max=LAST_U))
        return torch.where(u < rest, inner, torch.full_like(inner, self.terminal))

    def cdf(self, sigma: Tensor) -> Tensor:
        return (1 - self.mass) * self.density.cdf(sigma) + self.mass * (sigma >= self.terminal)


@dataclass(frozen=True, kw_only=True)
class Truncated(Density):
    """Another density between two levels: what falls outside is drawn again."""

    density: Density
    sigma_min: float
    sigma_max: float

    def __post_init__(self):
        check.instance("density.density", self.density, Density)
        check.number("density.sigma_min", self.sigma_min, at_least=0)
        check.number("density.sigma_max", self.sigma_max, above=self.sigma_min)
        low, high = self._range
        if not high > low:
            raise ConfigError(
                f"density.sigma_min={self.sigma_min} and density.sigma_max={self.sigma_max} leave nothing of "
                f"density.density, which draws {low:.3g} of its levels below them. Choose bounds within it."
            )

    @cached_property
    def _range(self) -> tuple[float, float]:
        """The inner u at the bounds."""
        low, high = self.density.cdf(torch.tensor([self.sigma_min, self.sigma_max], dtype=torch.float64)).tolist()
        return low, high

    def sigma(self, u: Tensor) -> Tensor:
        low, high = self._range
        inner = self.density.sigma((low + u * (high - low)).clamp(max=LAST_U))
        return inner.clamp(self.sigma_min, self.sigma_max)

    def cdf(self, sigma: Tensor) -> Tensor:
        low, high = self._range
        return ((self.density.cdf(sigma) - low) / (high - low)).clamp(0, 1)

    def log_prob(self, sigma: Tensor) -> Tensor:
        low, high = self._range
        inside = (sigma >= self.sigma_min) & (sigma <= self.sigma_max)
        return torch.where(inside, self.density.log_prob(sigma) - math.log(high - low), -math.inf)


@dataclass(frozen=True, kw_only=True)
class Shifted(Density):
    """Every level of another density times `factor`, for another resolution: logSNR - 2 ln factor.

    simple diffusion (arXiv 2301.11093) and NovelAI Diffusion V3 (arXiv 2409.15997): twice the side, factor 2.
    """

    density: Density
    factor: float

    def __post_init__(self):
        check.instance("density.density", self.density, Density)
        check.finite("density.factor", self.factor, above=0)

    def sigma(self, u: Tensor) -> Tensor:
        return self.factor * self.density.sigma(u)

    def cdf(self, sigma: Tensor) -> Tensor:
        return self.density.cdf(sigma / self.factor)

    def log_prob(self, sigma: Tensor) -> Tensor:
        return self.density.log_prob(sigma / self.factor)


@dataclass(frozen=True, kw_only=True)
class Mixture(Density):
    """Several densities, by name, each with its share; the shares are divided by their sum."""

    densities: dict[str, Density]
    shares: dict[str, float]

    def __post_init__(self):
        if not isinstance(self.densities, dict) or not self.densities:
            raise ConfigError(f"density.densities must be densities by name, got {self.densities!r}")
        if not isinstance(self.shares, dict) or self.shares.keys() != self.densities.keys():
            raise ConfigError(f"density.shares must name a share for each of {[*self.densities]}, got {self.shares!r}")
        for name, density in self.densities.items():
            check.instance(f"density.densities.{name}", density, Density)
            check.finite(f"density.shares.{name}", self.shares[name], above=0)

    def _mean(self, values) -> Tensor:
        return sum(self.shares[name] * value for name, value in values.items()) / sum(self.shares.values())

    def sigma(self, u: Tensor) -> Tensor:
        """By bisection in ln sigma, between the parts' own quantiles."""
        quantiles = torch.stack([density.sigma(u) for density in self.densities.values()])
        low, high = (edge.log().clamp(LOG_OF_0, LOG_OF_INF) for edge in torch.aminmax(quantiles, dim=0))
        for _ in range(64):
            middle = (low + high) / 2
            reached = self.cdf(middle.exp()) > u
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
        return high.exp()

    def cdf(self, sigma: Tensor) -> Tensor:
        return self._mean({name: density.cdf(sigma) for name, density in self.densities.items()})

    def log_prob(self, sigma: Tensor) -> Tensor:
        return self._mean({name: density.log_prob(sigma).exp() for name, density in self.densities.items()}).log()
