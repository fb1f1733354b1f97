"""Prediction targets: what the network is asked for, and how x0 comes back from it.

Everything is written on z = alpha * x0 + sigma_vp * noise, with denoised = c_skip * z + c_out * output.
Coefficients are (B,) functions of sigma; `output` is a closed form, since the quotient
(x0 - c_skip * z) / c_out loses its digits where c_out is small.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ztsnr.core import checks
from ztsnr.core.noise import alpha, expand, sigma_vp


class Target:
    finite_at_inf: ClassVar[bool]
    """Whether x0 can be had from the output at sigma = inf."""

    def c_in(self, sigma: Tensor) -> Tensor:
        """Scale of z on its way into the network."""
        return torch.ones_like(sigma)

    def c_skip(self, sigma: Tensor) -> Tensor:
        raise NotImplementedError

    def c_out(self, sigma: Tensor) -> Tensor:
        raise NotImplementedError

    def gain(self, sigma: Tensor) -> Tensor:
        """Squared error of this output per squared error of v, (sigma_vp / c_out)²: the exchange rate of weightings.

        Overridden by a closed form where the quotient has no value at sigma = 0.
        """
        return (sigma_vp(sigma) / self.c_out(sigma)).square()

    def output(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """The ideal output: x0, noise (B, ...), sigma (B,) -> (B, ...)."""
        raise NotImplementedError

    def denoised(self, output: Tensor, z: Tensor, sigma: Tensor) -> Tensor:
        """The estimate of x0 in an output: output, z (B, ...), sigma (B,) -> (B, ...)."""
        return expand(self.c_skip(sigma), z) * z + expand(self.c_out(sigma), z) * output


@dataclass(frozen=True, kw_only=True)
class Eps(Target):
    """The noise (DDPM, arXiv 2006.11239). At sigma = inf it says nothing of x0, hence is refused there."""

    finite_at_inf: ClassVar[bool] = False

    def c_skip(self, sigma):
        return (1 + sigma.square()).sqrt()

    def c_out(self, sigma):
        return -sigma

    def gain(self, sigma):
        return alpha(sigma).square()

    def output(self, x0, noise, sigma):
        return noise


@dataclass(frozen=True, kw_only=True)
class X0(Target):
    """The data itself."""

    finite_at_inf: ClassVar[bool] = True

    def c_skip(self, sigma):
        return torch.zeros_like(sigma)

    def c_out(self, sigma):
        return torch.ones_like(sigma)

    def gain(self, sigma):
        return sigma_vp(sigma).square()

    def output(self, x0, noise, sigma):
        return x0


@dataclass(frozen=True, kw_only=True)
class V(Target):
    """alpha * noise - sigma_vp * x0 (Salimans & Ho, arXiv 2202.00512): -x0 at sigma = inf, the noise at 0."""

    finite_at_inf: ClassVar[bool] = True

    def c_skip(self, sigma):
        return alpha(sigma)

    def c_out(self, sigma):
        return -sigma_vp(sigma)

    def gain(self, sigma):
        return torch.ones_like(sigma)

    def output(self, x0, noise, sigma):
        return expand(alpha(sigma), x0) * noise - expand(sigma_vp(sigma), x0) * x0


@dataclass(frozen=True, kw_only=True)
class EDM(Target):
    """EDM's preconditioned output F (arXiv 2206.00364, Table 1) for data of standard deviation sigma_data.

    The paper's coefficients act on x0 + sigma * noise = z / alpha. On z, with r = hypot(sigma_vp, sigma_data * alpha),
    they are c_in = 1 / r, c_skip = sigma_data² alpha / r², c_out = sigma_data sigma_vp / r. At sigma_data 1, F = -v.
    """

    sigma_data: float
    finite_at_inf: ClassVar[bool] = True

    def __post_init__(self):
        checks.finite("target.sigma_data", self.sigma_data, above=0)

    def _r(self, sigma: Tensor) -> Tensor:
        return torch.hypot(sigma_vp(sigma), self.sigma_data * alpha(sigma))

    def c_in(self, sigma):
        return self._r(sigma).reciprocal()

    def c_skip(self, sigma):
        return self.sigma_data**2 * alpha(sigma) / self._r(sigma).square()

    def c_out(self, sigma):
        return self.sigma_data * sigma_vp(sigma) / self._r(sigma)

    def gain(self, sigma):
        return (self._r(sigma) / self.sigma_data).square()

    def output(self, x0, noise, sigma):
        r = self._r(sigma)
        of_x0, of_noise = sigma_vp(sigma) / (self.sigma_data * r), self.sigma_data * alpha(sigma) / r
        return expand(of_x0, x0) * x0 - expand(of_noise, x0) * noise


@dataclass(frozen=True, kw_only=True)
class Flow(Target):
    """Velocity noise - x0 of the straight path (1 - tau) x0 + tau noise (arXiv 2209.03003), tau = sigma / (1 + sigma).

    The network sees the path's own state, z / (alpha + sigma_vp).
    """

    finite_at_inf: ClassVar[bool] = True

    def c_in(self, sigma):
        return 1 / (alpha(sigma) + sigma_vp(sigma))

    def c_skip(self, sigma):
        return self.c_in(sigma)

    def c_out(self, sigma):
        return -sigma_vp(sigma) * self.c_in(sigma)

    def gain(self, sigma):
        return (alpha(sigma) + sigma_vp(sigma)).square()

    def output(self, x0, noise, sigma):
        return noise - x0
