"""Densities made of others."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ztsnr.core import checks
from ztsnr.core.errors import ConfigError
from ztsnr.core.schedule.density import LAST_U, Density

ROUNDING = 2**-49
"""More than float64 loses between a density's u and its cdf."""

FEWEST = 1e-9
"""The least share of a density's draws that still resolves what is left of it to six digits."""


@dataclass(frozen=True, kw_only=True)
class TerminalMass(Density):
    """(1 - mass) of another density, and `mass` at the terminal level, so that sampling's start is trained."""

    density: Density
    terminal: float
    mass: float

    def __post_init__(self):
        checks.instance("density.density", self.density, Density)
        checks.finite("density.mass", self.mass, above=0, below=1)
        checks.number("density.terminal", self.terminal, above=0)
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
        return torch.where(sigma >= self.terminal, 1.0, (1 - self.mass) * self.density.cdf(sigma))


@dataclass(frozen=True, kw_only=True)
class Truncated(Density):
    """Another density from sigma_min to sigma_max, both included: what falls outside is drawn again."""

    density: Density
    sigma_min: float
    sigma_max: float

    def __post_init__(self):
        checks.instance("density.density", self.density, Density)
        checks.number("density.sigma_min", self.sigma_min, at_least=0)
        checks.number("density.sigma_max", self.sigma_max, above=self.sigma_min)
        low, high = self._range
        if high - low < FEWEST:
            raise ConfigError(
                f"density.sigma_min={self.sigma_min} and density.sigma_max={self.sigma_max} leave {high - low:.2g} of "
                f"density.density, which draws {low:.3g} of its levels below them. Choose bounds within it."
            )

    @property
    def _range(self) -> tuple[float, float]:
        """The inner u at the bounds; not kept, since a learned density changes."""
        bounds = torch.tensor([math.nextafter(self.sigma_min, 0), self.sigma_max], dtype=torch.float64)
        low, high = self.density.cdf(bounds).tolist()
        return low, high

    def sigma(self, u: Tensor) -> Tensor:
        low, high = self._range
        inner = (low + u * (high - low)).clamp(low + ROUNDING, high - ROUNDING)  # the next atom is not drawn
        return self.density.sigma(inner).clamp(self.sigma_min, self.sigma_max)

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
        checks.instance("density.density", self.density, Density)
        checks.finite("density.factor", self.factor, above=0)

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
            checks.instance(f"density.densities.{name}", density, Density)
            checks.finite(f"density.shares.{name}", self.shares[name], above=0)

    def sigma(self, u: Tensor) -> Tensor:
        """The first float whose cdf exceeds u, by bisection between the parts' quantiles over floats as integers."""
        quantiles = torch.stack([density.sigma(u) for density in self.densities.values()])
        low, high = (edge.view(torch.int64) for edge in torch.aminmax(quantiles, dim=0))
        while (low < high).any():
            middle = low + (high - low) // 2
            reached = self.cdf(middle.view(torch.float64)) > u
            low, high = torch.where(reached, low, middle + 1), torch.where(reached, middle, high)
        return high.view(torch.float64)

    def cdf(self, sigma: Tensor) -> Tensor:
        weighted = sum(self.shares[name] * density.cdf(sigma) for name, density in self.densities.items())
        return weighted / sum(self.shares[name] for name in self.densities)

    def log_prob(self, sigma: Tensor) -> Tensor:
        shares = torch.tensor([self.shares[name] for name in self.densities], dtype=torch.float64, device=sigma.device)
        parts = torch.stack([density.log_prob(sigma) for density in self.densities.values()], dim=1)
        return torch.logsumexp(parts + (shares / shares.sum()).log(), dim=1)
