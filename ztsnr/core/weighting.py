"""Loss weightings, each declared once, on the squared error of one target, and converted to whatever is trained.

`base` is the target whose squared error the formula multiplies. A formula on another base is another weighting.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ztsnr.core import checks
from ztsnr.core.errors import ConfigError
from ztsnr.core.noise import alpha, sigma_vp, snr
from ztsnr.core.schedule.density import Density
from ztsnr.core.schedule.table import SigmaTable
from ztsnr.core.target import Target


class Weighting:
    base: Target
    """The target whose squared error `weight` multiplies."""

    def weight(self, sigma: Tensor) -> Tensor:
        """(B,) -> (B,), on the squared error of `base`."""
        raise NotImplementedError

    def __call__(self, sigma: Tensor, target: Target) -> Tensor:
        """(B,) -> (B,), the same weighting on the squared error of `target`: times (c_out_target / c_out_base)².

        Finite at sigma = 0 and inf but for two: at 0 on x0 and at inf on eps it may be inf, or nan as 0 / 0, since
        there z itself is the output and an error of v is none of it.
        """
        weight = self.weight(sigma)
        return weight if target == self.base else weight * self.base.gain(sigma) / target.gain(sigma)

    def penalty(self, sigma: Tensor) -> Tensor:
        """What is added to the weighted distance, (B,) -> (B,): 0, but where the weighting is learned."""
        return torch.zeros_like(sigma)


@dataclass(frozen=True, kw_only=True)
class Unit(Weighting):
    """Weight 1 on the base: the plain mean squared error of that target, whatever the network predicts."""

    base: Target

    def __post_init__(self):
        checks.instance("weighting.base", self.base, Target)

    def weight(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)


@dataclass(frozen=True, kw_only=True)
class MinSNR(Weighting):
    """min(SNR + offset, gamma), and not below floor (Hang et al., arXiv 2303.09556: base x0, offset 0, floor 0).

    As published its weight at sigma = inf is 0; offset 1 or a floor keep one there.
    """

    base: Target
    gamma: float
    offset: float
    floor: float

    def __post_init__(self):
        checks.instance("weighting.base", self.base, Target)
        checks.finite("weighting.gamma", self.gamma, above=0)
        checks.finite("weighting.offset", self.offset, at_least=0)
        checks.finite("weighting.floor", self.floor, at_least=0, at_most=self.gamma)

    def weight(self, sigma: Tensor) -> Tensor:
        return (snr(sigma) + self.offset).clamp(self.floor, self.gamma)


@dataclass(frozen=True, kw_only=True)
class MinSNRByEps(Weighting):
    """min(SNR, gamma) / SNR: min-SNR as written for the error of eps. On another base it is another weighting."""

    base: Target
    gamma: float

    def __post_init__(self):
        checks.instance("weighting.base", self.base, Target)
        checks.finite("weighting.gamma", self.gamma, above=0)

    def weight(self, sigma: Tensor) -> Tensor:
        return (self.gamma * sigma.square()).clamp(max=1)


@dataclass(frozen=True, kw_only=True)
class SoftMinSNR(Weighting):
    """gamma SNR / (SNR + gamma) (Crowson et al., arXiv 2401.11605: base x0). Its weight at sigma = inf is 0."""

    base: Target
    gamma: float

    def __post_init__(self):
        checks.instance("weighting.base", self.base, Target)
        checks.finite("weighting.gamma", self.gamma, above=0)

    def weight(self, sigma: Tensor) -> Tensor:
        return self.gamma / (1 + self.gamma * sigma.square())


@dataclass(frozen=True, kw_only=True)
class Debiased(Weighting):
    """sqrt(SNR) / (SNR + 1), which on the error of v is 1 / sqrt(SNR) on that of eps (arXiv 2310.08442)."""

    base: Target

    def __post_init__(self):
        checks.instance("weighting.base", self.base, Target)

    def weight(self, sigma: Tensor) -> Tensor:
        return alpha(sigma) * sigma_vp(sigma)


@dataclass(frozen=True, kw_only=True)
class P2(Weighting):
    """(k + SNR)^-gamma (Choi et al., arXiv 2204.00227: base eps)."""

    base: Target
    k: float
    gamma: float

    def __post_init__(self):
        checks.instance("weighting.base", self.base, Target)
        checks.finite("weighting.k", self.k, above=0)
        checks.finite("weighting.gamma", self.gamma, at_least=0)

    def weight(self, sigma: Tensor) -> Tensor:
        return (self.k + snr(sigma)).pow(-self.gamma)


@dataclass(frozen=True, kw_only=True)
class TruncatedSNR(Weighting):
    """max(SNR, 1) / (SNR + 1), which on the error of v is max(SNR, 1) on that of x0 (arXiv 2202.00512)."""

    base: Target

    def __post_init__(self):
        checks.instance("weighting.base", self.base, Target)

    def weight(self, sigma: Tensor) -> Tensor:
        return torch.maximum(alpha(sigma), sigma_vp(sigma)).square()


@dataclass(frozen=True, kw_only=True)
class Sigmoid(Weighting):
    """sigmoid(bias - logSNR) (VDM++, arXiv 2303.00848; simpler diffusion, arXiv 2410.19324: base eps)."""

    base: Target
    bias: float

    def __post_init__(self):
        checks.instance("weighting.base", self.base, Target)
        checks.finite("weighting.bias", self.bias)

    def weight(self, sigma: Tensor) -> Tensor:
        return torch.sigmoid(self.bias + 2 * sigma.log())


@dataclass(frozen=True, kw_only=True)
class Importance(Weighting):
    """Another weighting times intended / drawn density: what is drawn changes, and what is trained does not.

    It has no value at sigma = 0 and inf, which a density without atoms never draws. A drawn density that misses more
    than a thousandth of the intended draws is refused.
    """

    weighting: Weighting
    intended: Density
    drawn: Density

    def __post_init__(self):
        checks.instance("weighting.weighting", self.weighting, Weighting)
        for name in ("intended", "drawn"):
            density = getattr(self, name)
            checks.instance(f"weighting.{name}", density, Density)
            try:
                density.log_prob(torch.ones(1, dtype=torch.float64))
            except NotImplementedError as error:
                raise ConfigError(
                    f"weighting.{name} needs a density with a log_prob, but {error}. Choose one that is continuous, "
                    f"such as table_interpolated in place of table_uniform."
                ) from error
        intended = self.intended.sigma((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)
        missed = intended[self.drawn.log_prob(intended) == -torch.inf]
        if len(missed):
            raise ConfigError(
                f"weighting.drawn never draws sigma {missed[0]:.4g} to {missed[-1]:.4g}, where weighting.intended has "
                f"levels. Choose a schedule that draws them, or truncate weighting.intended."
            )

    @property
    def base(self) -> Target:
        return self.weighting.base

    def _ratio(self, sigma: Tensor) -> Tensor:
        return (self.intended.log_prob(sigma) - self.drawn.log_prob(sigma)).exp()

    def weight(self, sigma: Tensor) -> Tensor:
        return self.weighting.weight(sigma) * self._ratio(sigma)

    def penalty(self, sigma: Tensor) -> Tensor:
        return self.weighting.penalty(sigma) * self._ratio(sigma)


@dataclass(frozen=True, kw_only=True)
class RemappedTable(Weighting):
    """Another weighting, on the error of `base`, with the levels of `read` taken for those of `table`, by index.

    sd-scripts takes its SNR from the table as it was before the zero-terminal rescale.
    """

    weighting: Weighting
    base: Target
    table: SigmaTable
    read: SigmaTable

    def __post_init__(self):
        checks.instance("weighting.weighting", self.weighting, Weighting)
        checks.instance("weighting.base", self.base, Target)
        checks.instance("weighting.table", self.table, SigmaTable)
        checks.instance("weighting.read", self.read, SigmaTable)
        if len(self.table.sigmas) != len(self.read.sigmas):
            raise ConfigError(
                f"weighting.read must have as many levels as weighting.table, {len(self.table.sigmas)}, "
                f"got {len(self.read.sigmas)}"
            )

    def _level(self, sigma: Tensor) -> Tensor:
        return self.read.at(self.table.index(sigma))

    def weight(self, sigma: Tensor) -> Tensor:
        return self.weighting(self._level(sigma), self.base)

    def penalty(self, sigma: Tensor) -> Tensor:
        return self.weighting.penalty(self._level(sigma))
