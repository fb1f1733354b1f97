"""Densities that combine or change other densities."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch

from ztsnr.core import checks
from ztsnr.core.checks import Bounds, Positive, key
from ztsnr.core.errors import ConfigError
from ztsnr.core.schedule.density import LAST_U, Density
from ztsnr.core.schedule.table import Terminal, UnitInterval
from ztsnr.core.shapes import PerSample

CDF_ROUNDING = 2**-49
"""More than float64 loses between a density's u and its cdf."""

MIN_KEPT_SHARE = 1e-9
"""The smallest share of a density's draws that float64 still resolves to six digits."""


@dataclass(frozen=True, kw_only=True)
class TerminalMass(Density):
    """(1 - mass) of a density, and `mass` at the terminal level, so that sampling's start is trained."""

    density: Density
    terminal: Terminal
    mass: UnitInterval

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.density.highest > self.terminal:
            raise ConfigError(
                f"{key('terminal')} must be the highest level, but {key('density')} draws up to "
                f"{self.density.highest:.6g}, got {self.terminal}. Use inf, or truncate {key('density')}."
            )

    def sigma(self, u: PerSample) -> PerSample:
        rest = 1 - self.mass
        inner = self.density.sigma((u / rest).clamp(max=LAST_U))
        return torch.where(u < rest, inner, torch.full_like(inner, self.terminal))

    def cdf(self, sigma: PerSample) -> PerSample:
        return torch.where(sigma >= self.terminal, 1.0, (1 - self.mass) * self.density.cdf(sigma))


@dataclass(frozen=True, kw_only=True)
class Truncated(Density):
    """A density from sigma_min to sigma_max, both included: levels outside are drawn again."""

    density: Density
    sigma_min: Annotated[float, Bounds(at_least=0, infinite=True)]
    sigma_max: Annotated[float, Bounds(infinite=True)]

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number("sigma_max", self.sigma_max, above=self.sigma_min)
        low, high = self._range
        if high - low < MIN_KEPT_SHARE:
            raise ConfigError(
                f"{key('sigma_min')}={self.sigma_min} and {key('sigma_max')}={self.sigma_max} leave {high - low:.2g} "
                f"of {key('density')}, which draws {low:.3g} of its levels below them. Choose bounds within it."
            )

    @property
    def _range(self) -> tuple[float, float]:
        """The inner u at the bounds; not cached, since a learned density changes."""
        bounds = torch.tensor([math.nextafter(self.sigma_min, 0), self.sigma_max], dtype=torch.float64)
        low, high = self.density.cdf(bounds).tolist()
        return low, high

    def sigma(self, u: PerSample) -> PerSample:
        low, high = self._range
        inner = (low + u * (high - low)).clamp(low + CDF_ROUNDING, high - CDF_ROUNDING)  # the next atom is not drawn
        return self.density.sigma(inner).clamp(self.sigma_min, self.sigma_max)

    def cdf(self, sigma: PerSample) -> PerSample:
        low, high = self._range
        return ((self.density.cdf(sigma) - low) / (high - low)).clamp(0, 1)

    def log_prob(self, sigma: PerSample) -> PerSample:
        low, high = self._range
        inside = (sigma >= self.sigma_min) & (sigma <= self.sigma_max)
        return torch.where(inside, self.density.log_prob(sigma) - math.log(high - low), -math.inf)


@dataclass(frozen=True, kw_only=True)
class Shifted(Density):
    """Every level of a density times `factor`, for a different resolution: logSNR - 2 ln factor.

    simple diffusion (arXiv 2301.11093) and NovelAI Diffusion V3 (arXiv 2409.15997): twice the side, factor 2.
    """

    density: Density
    factor: Positive

    def sigma(self, u: PerSample) -> PerSample:
        return self.factor * self.density.sigma(u)

    def cdf(self, sigma: PerSample) -> PerSample:
        return self.density.cdf(sigma / self.factor)

    def log_prob(self, sigma: PerSample) -> PerSample:
        return self.density.log_prob(sigma / self.factor)


@dataclass(frozen=True, kw_only=True)
class Mixture(Density):
    """Several densities, by name, each with its share; the shares are divided by their sum."""

    densities: dict[str, Density]
    shares: dict[str, float]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.densities:
            raise ConfigError(f"{key('densities')} must be densities by name, got {self.densities!r}")
        if self.shares.keys() != self.densities.keys():
            raise ConfigError(f"{key('shares')} must name a share for each of {[*self.densities]}, got {self.shares!r}")
        for name, density in self.densities.items():
            checks.instance(f"densities.{name}", density, Density)
            checks.finite(f"shares.{name}", self.shares[name], above=0)

    def sigma(self, u: PerSample) -> PerSample:
        """The first float whose cdf exceeds u, by bisection between the parts' quantiles over floats as integers."""
        quantiles = torch.stack([density.sigma(u) for density in self.densities.values()])
        lowest, highest = torch.aminmax(quantiles, dim=0)
        low = lowest.view(torch.int64)
        high = highest.view(torch.int64)
        while (low < high).any():
            middle = low + (high - low) // 2
            reached = self.cdf(middle.view(torch.float64)) > u
            low = torch.where(reached, low, middle + 1)
            high = torch.where(reached, middle, high)
        return high.view(torch.float64)

    def cdf(self, sigma: PerSample) -> PerSample:
        weighted = torch.zeros_like(sigma)
        for name, density in self.densities.items():
            weighted = weighted + self.shares[name] * density.cdf(sigma)
        return weighted / sum(self.shares[name] for name in self.densities)

    def log_prob(self, sigma: PerSample) -> PerSample:
        shares = torch.tensor([self.shares[name] for name in self.densities], dtype=torch.float64, device=sigma.device)
        parts = torch.stack([density.log_prob(sigma) for density in self.densities.values()], dim=1)
        return torch.logsumexp(parts + (shares / shares.sum()).log(), dim=1)
