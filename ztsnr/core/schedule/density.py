"""Training densities p(sigma), each a quantile function: u uniform in [0, 1) -> sigma, nondecreasing."""

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid
from torch.special import ndtr, ndtri

from ztsnr.core import checks
from ztsnr.core.checks import Part, Positive
from ztsnr.core.noise import alpha, logsnr, sigma_from_logsnr, sigma_vp
from ztsnr.core.schedule.table import SigmaTable
from ztsnr.core.shapes import PerSample

LAST_U = 1 - 2**-53
"""The largest u that a float64 draw can give."""


class Density(Part):
    def sigma(self, u: PerSample) -> PerSample:
        """The quantiles of u, float64 in [0, 1): in [0, inf], nondecreasing. u = 1, never drawn, gives the limit."""
        raise NotImplementedError

    def cdf(self, sigma: PerSample) -> PerSample:
        """Share of draws up to and including sigma, in [0, 1]; by bisection unless a density has a formula."""
        low = torch.zeros_like(sigma)
        high = torch.ones_like(sigma)
        for _ in range(54):
            middle = (low + high) / 2
            below = self.sigma(middle.clamp(max=LAST_U)) <= sigma
            low = torch.where(below, middle, low)
            high = torch.where(below, high, middle)
        return torch.where(low >= LAST_U, 1.0, low)

    def log_prob(self, sigma: PerSample) -> PerSample:
        """Log density of ln sigma, -inf where nothing is drawn. Raises NotImplementedError where there are atoms."""
        raise NotImplementedError("this density has atoms, so it has no log_prob")

    @property
    def highest(self) -> float:
        """The highest sigma that a draw can give; may be inf."""
        return self.sigma(torch.tensor([LAST_U], dtype=torch.float64)).item()


@dataclass(frozen=True, kw_only=True)
class TableUniform(Density):
    """Every level of a table equally often, as discrete-time models are trained (DDPM, arXiv 2006.11239)."""

    table: SigmaTable

    def sigma(self, u: PerSample) -> PerSample:
        sigmas = self.table.sigmas.to(u.device)
        return sigmas[(u * len(sigmas)).long().clamp(max=len(sigmas) - 1)]

    def cdf(self, sigma: PerSample) -> PerSample:
        sigmas = self.table.sigmas.to(sigma.device)
        return torch.searchsorted(sigmas, sigma.double(), right=True).double() / len(sigmas)


@dataclass(frozen=True, kw_only=True)
class TableInterpolated(Density):
    """Uniform over a table's index, fractions included (VDM's continuous time, arXiv 2107.00630)."""

    table: SigmaTable

    def sigma(self, u: PerSample) -> PerSample:
        return self.table.at(u * (len(self.table.sigmas) - 1))

    def cdf(self, sigma: PerSample) -> PerSample:
        return self.table.index(sigma) / (len(self.table.sigmas) - 1)

    def log_prob(self, sigma: PerSample) -> PerSample:
        angles = self.table.angles.to(sigma.device)
        last = len(self.table.sigmas) - 1
        left = self.table.index(sigma).long().clamp(max=last - 1)
        slope = last * (angles[left + 1] - angles[left])  # of the angle, by u
        inside = (sigma >= self.table.sigmas[0]) & (sigma <= self.table.sigmas[-1])
        return torch.where(inside, (alpha(sigma) * sigma_vp(sigma) / slope).log(), -math.inf)  # d angle / d ln sigma


@dataclass(frozen=True, kw_only=True)
class Karras(Density):
    """Uniform in sigma^(1/rho): EDM's sampling grid as a training density (arXiv 2206.00364, equation 5)."""

    sigma_min: Positive
    sigma_max: Positive
    rho: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.ascending("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    @property
    def _roots(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def sigma(self, u: PerSample) -> PerSample:
        low, high = self._roots
        return (low + u * (high - low)).pow(self.rho).clamp(self.sigma_min, self.sigma_max)

    def cdf(self, sigma: PerSample) -> PerSample:
        low, high = self._roots
        return ((sigma.pow(1 / self.rho) - low) / (high - low)).clamp(0, 1)

    def log_prob(self, sigma: PerSample) -> PerSample:
        low, high = self._roots
        inside = (sigma >= self.sigma_min) & (sigma <= self.sigma_max)
        return torch.where(inside, sigma.log() / self.rho - math.log(self.rho * (high - low)), -math.inf)


@dataclass(frozen=True, kw_only=True)
class LogUniform(Density):
    """ln sigma uniform between bounds."""

    sigma_min: Positive
    sigma_max: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.ascending("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    @property
    def _width(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def sigma(self, u: PerSample) -> PerSample:
        return (self.sigma_min * (u * self._width).exp()).clamp(max=self.sigma_max)

    def cdf(self, sigma: PerSample) -> PerSample:
        return ((sigma / self.sigma_min).log() / self._width).clamp(0, 1)

    def log_prob(self, sigma: PerSample) -> PerSample:
        inside = (sigma >= self.sigma_min) & (sigma <= self.sigma_max)
        return torch.where(inside, torch.full_like(sigma, -math.log(self._width)), -math.inf)


@dataclass(frozen=True, kw_only=True)
class LogNormal(Density):
    """ln sigma from a normal distribution (EDM, arXiv 2206.00364: P_mean, P_std).

    It is also the logit-normal density of flow time (arXiv 2403.03206), since logit tau = ln sigma.
    """

    mean: float
    std: Positive

    def sigma(self, u: PerSample) -> PerSample:
        return (self.mean + self.std * ndtri(u)).exp()

    def cdf(self, sigma: PerSample) -> PerSample:
        return ndtr((sigma.log() - self.mean) / self.std)

    def log_prob(self, sigma: PerSample) -> PerSample:
        return -((sigma.log() - self.mean) / self.std).square() / 2 - math.log(self.std * math.sqrt(2 * math.pi))


@dataclass(frozen=True, kw_only=True)
class Cosine(Density):
    """logSNR = mu + (2 / scale) ln cot(pi u / 2).

    mu 0 and scale 1 are the cosine schedule (arXiv 2102.09672), the others cosine-shifted and cosine-scaled of Hang et
    al. (arXiv 2407.03297).
    """

    mu: float
    scale: Positive

    def sigma(self, u: PerSample) -> PerSample:
        tan = (u * (math.pi / 2)).sin() / ((1 - u) * (math.pi / 2)).sin()  # as exact near u = 1 as near 0
        return math.exp(-self.mu / 2) * tan.pow(1 / self.scale)

    def cdf(self, sigma: PerSample) -> PerSample:
        return (sigma * math.exp(self.mu / 2)).pow(self.scale).atan() * (2 / math.pi)

    def log_prob(self, sigma: PerSample) -> PerSample:
        y = (self.scale * (sigma.log() + self.mu / 2)).abs()
        return math.log(2 * self.scale / math.pi) - y - (-2 * y).exp().log1p()  # a hyperbolic secant


@dataclass(frozen=True, kw_only=True)
class Laplace(Density):
    """logSNR from a Laplace distribution with mean mu and scale b (Hang et al., arXiv 2407.03297)."""

    mu: float
    b: Positive

    def sigma(self, u: PerSample) -> PerSample:
        tail = torch.minimum(u, 1 - u)
        return sigma_from_logsnr(self.mu - self.b * (0.5 - u).sign() * (2 * tail).log())

    def cdf(self, sigma: PerSample) -> PerSample:
        z = (self.mu - logsnr(sigma)) / self.b
        tail = (-z.abs()).exp() / 2
        return torch.where(z < 0, tail, 1 - tail)

    def log_prob(self, sigma: PerSample) -> PerSample:
        return -(logsnr(sigma) - self.mu).abs() / self.b - math.log(self.b)  # |d logsnr / d ln sigma| = 2


@dataclass(frozen=True, kw_only=True)
class Cauchy(Density):
    """logSNR from a Cauchy distribution (Hang et al., arXiv 2407.03297). Its tails reach 0 and inf: truncate it."""

    mu: float
    gamma: Positive

    def sigma(self, u: PerSample) -> PerSample:
        return sigma_from_logsnr(self.mu + self.gamma * (math.pi * (0.5 - u)).tan())

    def cdf(self, sigma: PerSample) -> PerSample:
        return 0.5 + ((self.mu - logsnr(sigma)) / self.gamma).atan() / math.pi

    def log_prob(self, sigma: PerSample) -> PerSample:
        z = (logsnr(sigma) - self.mu) / self.gamma
        return math.log(2 / (math.pi * self.gamma)) - z.square().log1p()


@dataclass(frozen=True, kw_only=True)
class FlowUniform(Density):
    """Flow time tau = sigma / (1 + sigma) uniform in [0, 1) (arXiv 2209.03003): ln sigma is logistic."""

    def sigma(self, u: PerSample) -> PerSample:
        return u / (1 - u)

    def cdf(self, sigma: PerSample) -> PerSample:
        return 1 / (1 + 1 / sigma)

    def log_prob(self, sigma: PerSample) -> PerSample:
        return logsigmoid(sigma.log()) + logsigmoid(-sigma.log())
