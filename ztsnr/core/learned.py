"""Parts of an objective that change in training: modules that the trainer optimises, saves and resumes."""

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor, nn

from ztsnr.core import checks
from ztsnr.core.checks import key
from ztsnr.core.errors import ConfigError
from ztsnr.core.schedule.density import Density
from ztsnr.core.shapes import PerSample
from ztsnr.core.target import X0, Target
from ztsnr.core.weighting import Weighting

PRIOR_COUNT = 1e-6
"""The weight of the error of Gaussian data, in observations: any real observation outweighs it."""


def modules_in(part: object) -> list[nn.Module]:
    """The modules that a part is or contains; modules inside modules are not listed."""
    if isinstance(part, nn.Module):
        return [part]

    values: list[object] = []
    if isinstance(part, dict):
        values = list(part.values())
    elif is_dataclass(part) and not isinstance(part, type):
        values = [getattr(part, field.name) for field in fields(part)]

    modules = []
    for value in values:
        modules += modules_in(value)
    return modules


def _refuse_learned(name: str, part: object) -> None:
    if modules_in(part):
        raise ConfigError(f"{key(name)} must not be learned itself. Choose a fixed one.")


class Uncertainty(Weighting, nn.Module):
    """A weighting w divided by the expected error: w / exp(u) * distance + u, u a learned function of sigma.

    At its optimum every level contributes the same loss (Karras et al., arXiv 2312.02696, equation 21). u is linear in
    random Fourier features, as there, but of tanh(c_noise) = (sqrt(sigma) - 1) / (sqrt(sigma) + 1) in place of c_noise
    = ln(sigma) / 4, which has no value at sigma = inf. u starts at 0, so the first loss is that of w, which must be
    above 0 at all levels that are drawn.
    """

    frequency: Tensor
    phase: Tensor

    def __init__(self, *, weighting: Weighting, features: int, bandwidth: float) -> None:
        checks.instance("weighting", weighting, Weighting)
        _refuse_learned("weighting", weighting)
        checks.integer("features", features, at_least=1)
        checks.finite("bandwidth", bandwidth, above=0)
        super().__init__()
        self.weighting = weighting
        source = torch.Generator().manual_seed(0)
        self.register_buffer("frequency", 2 * math.pi * bandwidth * torch.randn(features, generator=source))
        self.register_buffer("phase", 2 * math.pi * torch.rand(features, generator=source))
        self.amplitude = nn.Parameter(torch.zeros(features))

    @property
    def base(self) -> Target:
        return self.weighting.base

    def penalty(self, sigma: PerSample) -> PerSample:
        """u"""
        position = (1 - 2 / (sigma.sqrt() + 1)).to(self.phase)
        waves = (position[:, None] * self.frequency + self.phase).cos()
        return waves @ self.amplitude * math.sqrt(2 / len(self.amplitude))

    def weight(self, sigma: PerSample) -> PerSample:
        return self.weighting.weight(sigma) * (-self.penalty(sigma)).exp().to(sigma)


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """The piecewise linear function through the points (xs, ys), xs ascending, at x (B,) within their range -> (B,)."""
    left = torch.searchsorted(xs, x, right=True).clamp(1, len(xs) - 1) - 1
    return torch.lerp(ys[left], ys[left + 1], (x - xs[left]) / (xs[left + 1] - xs[left]))


class InfoNoise(Density, nn.Module):
    """Draws the levels that inform most about the data: p(ln sigma) ~ gate * mmse / sigma² / w (arXiv 2602.18647).

    mmse is the running squared error of x0 in each of `bins` equal intervals of ln sigma, w the weighting on that
    error, gate = sigma^order / (sigma^order + cutoff^order). For its first `warmup` steps it draws from `prior`, then
    from its own estimate, which it updates every `refresh` steps. `decay` multiplies all records in each step. A bin
    without records takes the error of Gaussian data of variance 1, sigma² / (1 + sigma²).
    """

    error: Tensor
    count: Tensor
    quantile: Tensor
    steps: Tensor

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
    ) -> None:
        checks.instance("prior", prior, Density)
        _refuse_learned("prior", prior)
        checks.instance("weighting", weighting, Weighting)
        _refuse_learned("weighting", weighting)
        checks.ascending("sigma_min", sigma_min, "sigma_max", sigma_max)
        checks.integer("bins", bins, at_least=2)
        checks.integer("warmup", warmup, at_least=1)
        checks.integer("refresh", refresh, at_least=1)
        checks.finite("decay", decay, above=0, below=1)
        checks.finite("cutoff", cutoff, above=0)
        checks.finite("order", order, above=0)
        super().__init__()
        self.prior = prior
        self.warmup = warmup
        self.refresh = refresh
        self.decay = decay

        self.edges = torch.linspace(math.log(sigma_min), math.log(sigma_max), bins + 1, dtype=torch.float64)
        sigma = ((self.edges[1:] + self.edges[:-1]) / 2).exp()
        gate = 1 / (1 + (cutoff / sigma).pow(order))
        self.allocation = gate / sigma.square() / weighting(sigma, X0())
        if not (self.allocation.isfinite().all() and self.allocation.sum() > 0):
            raise ConfigError(
                f"{key('weighting')} must be above 0 and finite from {key('sigma_min')}={sigma_min} to "
                f"{key('sigma_max')}={sigma_max}"
            )
        self.gaussian_mmse = sigma.square() / (1 + sigma.square())
        self.register_buffer("error", torch.zeros_like(sigma))
        self.register_buffer("count", torch.zeros_like(sigma))
        self.register_buffer("quantile", torch.linspace(0, 1, bins + 1, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "InfoNoise":
        """Keeps the buffers in float64 in host memory, where levels are drawn, when the network is moved or cast."""
        return self

    def sigma(self, u: PerSample) -> PerSample:
        if self.steps < self.warmup:
            return self.prior.sigma(u)
        return _interpolate(u, self.quantile, self.edges).exp()

    def cdf(self, sigma: PerSample) -> PerSample:
        if self.steps < self.warmup:
            return self.prior.cdf(sigma)
        return _interpolate(sigma.log().clamp(self.edges[0], self.edges[-1]), self.edges, self.quantile)

    def log_prob(self, sigma: PerSample) -> PerSample:
        raise NotImplementedError("this density changes as it trains, so it has no log_prob")

    @property
    def highest(self) -> float:
        return max(self.prior.highest, self.edges[-1].exp().item())

    def observe(self, sigma: PerSample, error: PerSample) -> None:
        """Records a step's levels and the squared errors of x0 at them. All processes must pass the same values."""
        index = torch.bucketize(sigma.log(), self.edges, right=True) - 1
        inside = (index >= 0) & (index < len(self.error))
        bins = index[inside]
        errors = error[inside].to(self.error)
        self.error.mul_(self.decay).index_add_(0, bins, errors)
        self.count.mul_(self.decay).index_add_(0, bins, torch.ones_like(errors))
        self.steps += 1
        if (self.steps - self.warmup) % self.refresh == 0:
            self._update_quantiles()

    def _update_quantiles(self) -> None:
        mmse = (self.error + PRIOR_COUNT * self.gaussian_mmse) / (self.count + PRIOR_COUNT)
        mass = mmse * self.allocation
        self.quantile[1:] = (mass / mass.sum()).cumsum(0)
        self.quantile[-1] = 1
