"""Prediction targets: what the network is asked for, and how x0 comes back from it.

Everything is written on z = alpha * x0 + sigma_vp * noise, with denoised = c_skip * z + c_out * output.
Coefficients are (B,) functions of sigma; `output` is a closed form, since the quotient
(x0 - c_skip * z) / c_out loses its digits where c_out is small.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ztsnr.core.checks import Part, Positive
from ztsnr.core.noise import alpha, expand, sigma_vp
from ztsnr.core.shapes import PerSample, Samples


class Target(Part):
    finite_at_inf: ClassVar[bool]
    """Whether x0 can be computed from the output at sigma = inf."""

    def c_in(self, sigma: PerSample) -> PerSample:
        """Scale of z as the network's input."""
        return torch.ones_like(sigma)

    def c_skip(self, sigma: PerSample) -> PerSample:
        raise NotImplementedError

    def c_out(self, sigma: PerSample) -> PerSample:
        raise NotImplementedError

    def gain(self, sigma: PerSample) -> PerSample:
        """Squared error of this output per squared error of v, (sigma_vp / c_out)²: the exchange rate of weightings.

        Overridden by a closed form where the quotient has no value at sigma = 0.
        """
        return (sigma_vp(sigma) / self.c_out(sigma)).square()

    def output(self, x0: Samples, noise: Samples, sigma: PerSample) -> Samples:
        """The ideal output."""
        raise NotImplementedError

    def denoised(self, output: Samples, z: Samples, sigma: PerSample) -> Samples:
        """The estimate of x0 that an output holds."""
        return expand(self.c_skip(sigma), z) * z + expand(self.c_out(sigma), z) * output


@dataclass(frozen=True, kw_only=True)
class Eps(Target):
    """The noise (DDPM, arXiv 2006.11239). At sigma = inf it does not depend on x0, so it is refused there."""

    finite_at_inf: ClassVar[bool] = False

    def c_skip(self, sigma: PerSample) -> PerSample:
        return (1 + sigma.square()).sqrt()

    def c_out(self, sigma: PerSample) -> PerSample:
        return -sigma

    def gain(self, sigma: PerSample) -> PerSample:
        return alpha(sigma).square()

    def output(self, x0: Samples, noise: Samples, sigma: PerSample) -> Samples:
        return noise


@dataclass(frozen=True, kw_only=True)
class X0(Target):
    """The data itself."""

    finite_at_inf: ClassVar[bool] = True

    def c_skip(self, sigma: PerSample) -> PerSample:
        return torch.zeros_like(sigma)

    def c_out(self, sigma: PerSample) -> PerSample:
        return torch.ones_like(sigma)

    def gain(self, sigma: PerSample) -> PerSample:
        return sigma_vp(sigma).square()

    def output(self, x0: Samples, noise: Samples, sigma: PerSample) -> Samples:
        return x0


@dataclass(frozen=True, kw_only=True)
class V(Target):
    """alpha * noise - sigma_vp * x0 (Salimans & Ho, arXiv 2202.00512): -x0 at sigma = inf, the noise at 0."""

    finite_at_inf: ClassVar[bool] = True

    def c_skip(self, sigma: PerSample) -> PerSample:
        return alpha(sigma)

    def c_out(self, sigma: PerSample) -> PerSample:
        return -sigma_vp(sigma)

    def gain(self, sigma: PerSample) -> PerSample:
        return torch.ones_like(sigma)

    def output(self, x0: Samples, noise: Samples, sigma: PerSample) -> Samples:
        return expand(alpha(sigma), x0) * noise - expand(sigma_vp(sigma), x0) * x0


@dataclass(frozen=True, kw_only=True)
class EDM(Target):
    """EDM's preconditioned output F (arXiv 2206.00364, Table 1) for data of standard deviation sigma_data.

    The paper's coefficients act on x0 + sigma * noise = z / alpha. On z, with r = hypot(sigma_vp, sigma_data * alpha),
    they are c_in = 1 / r, c_skip = sigma_data² alpha / r², c_out = sigma_data sigma_vp / r. At sigma_data 1, F = -v.
    """

    sigma_data: Positive
    finite_at_inf: ClassVar[bool] = True

    def _r(self, sigma: PerSample) -> PerSample:
        return torch.hypot(sigma_vp(sigma), self.sigma_data * alpha(sigma))

    def c_in(self, sigma: PerSample) -> PerSample:
        return self._r(sigma).reciprocal()

    def c_skip(self, sigma: PerSample) -> PerSample:
        return self.sigma_data**2 * alpha(sigma) / self._r(sigma).square()

    def c_out(self, sigma: PerSample) -> PerSample:
        return self.sigma_data * sigma_vp(sigma) / self._r(sigma)

    def gain(self, sigma: PerSample) -> PerSample:
        return (self._r(sigma) / self.sigma_data).square()

    def output(self, x0: Samples, noise: Samples, sigma: PerSample) -> Samples:
        r = self._r(sigma)
        c_x0 = sigma_vp(sigma) / (self.sigma_data * r)
        c_noise = self.sigma_data * alpha(sigma) / r
        return expand(c_x0, x0) * x0 - expand(c_noise, x0) * noise


@dataclass(frozen=True, kw_only=True)
class Flow(Target):
    """Velocity noise - x0 of the straight path (1 - tau) x0 + tau noise (arXiv 2209.03003), tau = sigma / (1 + sigma).

    The network's input is the path's own state, z / (alpha + sigma_vp).
    """

    finite_at_inf: ClassVar[bool] = True

    def c_in(self, sigma: PerSample) -> PerSample:
        return 1 / (alpha(sigma) + sigma_vp(sigma))

    def c_skip(self, sigma: PerSample) -> PerSample:
        return self.c_in(sigma)

    def c_out(self, sigma: PerSample) -> PerSample:
        return -sigma_vp(sigma) * self.c_in(sigma)

    def gain(self, sigma: PerSample) -> PerSample:
        return (alpha(sigma) + sigma_vp(sigma)).square()

    def output(self, x0: Samples, noise: Samples, sigma: PerSample) -> Samples:
        return noise - x0
