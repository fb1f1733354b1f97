"""Parts of an objective that change as they train: modules that the trainer optimises, saves and resumes."""

import math
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor, nn

from ztsnr.core import checks
from ztsnr.core.errors import ConfigError
from ztsnr.core.schedule.density import Density
from ztsnr.core.target import X0, Target
from ztsnr.core.weighting import Weighting

FAINT = 1e-6
"""A count that yields to any observation."""


def modules_in(part) -> list[nn.Module]:
    """The modules that a part is or holds; into modules it does not look."""
    if isinstance(part, nn.Module):
        return [part]
    if isinstance(part, dict):
        held = part.values()
    else:
        held = [getattr(part, field.name) for field in fields(part)] if is_dataclass(part) else []
    return [module for value in held for module in modules_in(value)]


def _refuse_learned(name: str, part) -> None:
    if modules_in(part):
        raise ConfigError(f"{name} must not be learned itself. Choose a fixed one.")


class Uncertainty(Weighting, nn.Module):
    """Another weighting divided by the error that is to be expected: w / exp(u) * distance + u, u learned of sigma.

    At its optimum every level contributes the same loss (Karras et al., arXiv 2312.02696, equation 21). u is linear in
    random Fourier features, as there, but of tanh(c_noise) = (sqrt(sigma) - 1) / (sqrt(sigma) + 1) in place of c_noise
    = ln(sigma) / 4, which has no value at sigma = inf. u begins as 0, hence as the other weighting, whose weight must
    be above 0 wherever levels are drawn.
    """

    def __init__(self, *, weighting: Weighting, features: int, bandwidth: float):
        checks.instance("weighting.weighting", weighting, Weighting)
        _refuse_learned("weighting.weighting", weighting)
        checks.integer("weighting.features", features, at_least=1)
        checks.finite("weighting.bandwidth", bandwidth, above=0)
        super().__init__()
        self.weighting = weighting
        source = torch.Generator().manual_seed(0)
        self.register_buffer("frequency", 2 * math.pi * bandwidth * torch.randn(features, generator=source))
        self.register_buffer("phase", 2 * math.pi * torch.rand(features, generator=source))
        self.amplitude = nn.Parameter(torch.zeros(features))

    @property
    def base(self) -> Target:
        return self.weighting.base

    def penalty(self, sigma: Tensor) -> Tensor:
        """u: (B,) -> (B,)"""
        position = (1 - 2 / (sigma.sqrt() + 1)).to(self.phase)
        waves = (position[:, None] * self.frequency + self.phase).cos()
        return waves @ self.amplitude * math.sqrt(2 / len(self.amplitude))

    def weight(self, sigma: Tensor) -> Tensor:
        return self.weighting.weight(sigma) * (-self.penalty(sigma)).exp().to(sigma)


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """The piecewise linear function through the points (xs, ys), xs ascending, at x (B,) within their range -> (B,)."""
    left = torch.searchsorted(xs, x, right=True).clamp(1, len(xs) - 1) - 1
    return torch.lerp(ys[left], ys[left + 1], (x - xs[left]) / (xs[left + 1] - xs[left]))


class InfoNoise(Density, nn.Module):
    """Draws where an observation tells most of the data: p(ln sigma) ~ gate * mmse / sigma² / w (arXiv 2602.18647).

    mmse is the running squared error of x0 in each of `bins` equal intervals of ln sigma, w the weighting on that
    error, gate = sigma^order / (sigma^order + cutoff^order). For its first `warmup` steps it draws from `prior`, then
    from its own estimate, made anew every `refresh` steps. `decay` is the part of a bin's record that a step keeps. A
    bin without a record has the error of Gaussian data of variance 1, sigma² / (1 + sigma²).
    """

    def __init__(
        self,
        *,
        prior: Density,
        weighting: Weighting,
        sigma_min: float,
        sigma_max: float,
        bins: int,
        warmup: int,
        refresh: int,
        decay: float,
        cutoff: float,
        order: float,
    ):
        checks.instance("density.prior", prior, Density)
        _refuse_learned("density.prior", prior)
        checks.instance("density.weighting", weighting, Weighting)
        _refuse_learned("density.weighting", weighting)
        checks.ascending("density.sigma_min", sigma_min, "density.sigma_max", sigma_max)
        for name, value, least in (("bins", bins, 2), ("warmup", warmup, 1), ("refresh", refresh, 1)):
            checks.integer(f"density.{name}", value, at_least=least)
        checks.finite("density.decay", decay, above=0, below=1)
        checks.finite("density.cutoff", cutoff, above=0)
        checks.finite("density.order", order, above=0)
        super().__init__()
        self.prior, self.warmup, self.refresh, self.decay = prior, warmup, refresh, decay
        self.edges = torch.linspace(math.log(sigma_min), math.log(sigma_max), bins + 1, dtype=torch.float64)
        sigma = ((self.edges[1:] + self.edges[:-1]) / 2).exp()
        gate = 1 / (1 + (cutoff / sigma).pow(order))
        self.allocation = gate / sigma.square() / weighting(sigma, X0())
        if not (self.allocation.isfinite().all() and self.allocation.sum() > 0):
            raise ConfigError(
                f"density.weighting must be above 0 and finite from density.sigma_min={sigma_min} to "
                f"density.sigma_max={sigma_max}"
            )
        self.of_gaussian = sigma.square() / (1 + sigma.square())
        self.register_buffer("error", torch.zeros_like(sigma))
        self.register_buffer("count", torch.zeros_like(sigma))
        self.register_buffer("quantile", torch.linspace(0, 1, bins + 1, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def _apply(self, fn, recurse=True):
        """It stays in float64 in host memory, where levels are drawn, whatever else is moved or cast."""
        return self

    def sigma(self, u: Tensor) -> Tensor:
        if self.steps < self.warmup:
            return self.prior.sigma(u)
        return _interpolate(u, self.quantile, self.edges).exp()

    def cdf(self, sigma: Tensor) -> Tensor:
        if self.steps < self.warmup:
            return self.prior.cdf(sigma)
        return _interpolate(sigma.log().clamp(self.edges[0], self.edges[-1]), self.edges, self.quantile)

    def log_prob(self, sigma: Tensor) -> Tensor:
        raise NotImplementedError("this density changes as it trains, so it has no log_prob")

    @property
    def highest(self) -> float:
        return max(self.prior.highest, self.edges[-1].exp().item())

    def observe(self, sigma: Tensor, error: Tensor) -> None:
        """After each step: its levels and the squared errors of x0 at them, (B,) each, on every process the same."""
        place = torch.bucketize(sigma.log(), self.edges, right=True) - 1
        inside = (place >= 0) & (place < len(self.error))
        for record, seen in ((self.error, error), (self.count, torch.ones_like(error))):
            record.mul_(self.decay).index_add_(0, place[inside], seen[inside].to(record))
        self.steps += 1
        if (self.steps - self.warmup) % self.refresh == 0:
            mmse = (self.error + FAINT * self.of_gaussian) / (self.count + FAINT)
            mass = mmse * self.allocation
            self.quantile[1:] = (mass / mass.sum()).cumsum(0)
            self.quantile[-1] = 1
