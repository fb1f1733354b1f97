"""Loss weightings. Each is declared on the squared error of one target and converted to the target that is trained.

`base` is the target whose squared error the formula multiplies. The same formula on a different base is a different
weighting.
"""

from dataclasses import dataclass

import torch

from ztsnr.core import checks
from ztsnr.core.checks import NonNegative, Part, Positive, key
from ztsnr.core.errors import ConfigError
from ztsnr.core.noise import alpha, sigma_vp, snr
from ztsnr.core.schedule.density import Density
from ztsnr.core.schedule.table import SigmaTable
from ztsnr.core.shapes import PerSample
from ztsnr.core.target import Target


class Weighting(Part):
    base: Target
    """The target whose squared error `weight` multiplies."""

    def weight(self, sigma: PerSample) -> PerSample:
        """On the squared error of `base`, at least 0."""
        raise NotImplementedError

    def __call__(self, sigma: PerSample, target: Target) -> PerSample:
        """The same weighting on the squared error of `target`: times (c_out_target / c_out_base)².

        Finite also at sigma = 0 and inf, with two exceptions: on x0 at 0 and on eps at inf it may be inf or nan. There
        the ideal output is z itself, so its error says nothing about an error of v.
        """
        weight = self.weight(sigma)
        return weight if target == self.base else weight * self.base.gain(sigma) / target.gain(sigma)

    def penalty(self, sigma: PerSample) -> PerSample:
        """The term that is added to the weighted distance: 0 unless the weighting is learned."""
        return torch.zeros_like(sigma)


@dataclass(frozen=True, kw_only=True)
class Unit(Weighting):
    """Weight 1 on the base: the plain mean squared error of that target, whatever the network predicts."""

    base: Target

    def weight(self, sigma: PerSample) -> PerSample:
        return torch.ones_like(sigma)


@dataclass(frozen=True, kw_only=True)
class MinSNR(Weighting):
    """min(SNR + offset, gamma), and not below floor (Hang et al., arXiv 2303.09556: base x0, offset 0, floor 0).

    As published its weight at sigma = inf is 0; offset 1 or a floor keep one there.
    """

    base: Target
    gamma: Positive
    offset: NonNegative
    floor: NonNegative

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.finite("floor", self.floor, at_least=0, at_most=self.gamma)

    def weight(self, sigma: PerSample) -> PerSample:
        return (snr(sigma) + self.offset).clamp(self.floor, self.gamma)


@dataclass(frozen=True, kw_only=True)
class MinSNRByEps(Weighting):
    """min(SNR, gamma) / SNR: min-SNR as written for the error of eps, a different weighting on any other base."""

    base: Target
    gamma: Positive

    def weight(self, sigma: PerSample) -> PerSample:
        return (self.gamma * sigma.square()).clamp(max=1)


@dataclass(frozen=True, kw_only=True)
class SoftMinSNR(Weighting):
    """gamma SNR / (SNR + gamma) (Crowson et al., arXiv 2401.11605: base x0). Its weight at sigma = inf is 0."""

    base: Target
    gamma: Positive

    def weight(self, sigma: PerSample) -> PerSample:
        return self.gamma / (1 + self.gamma * sigma.square())


@dataclass(frozen=True, kw_only=True)
class Debiased(Weighting):
    """sqrt(SNR) / (SNR + 1), which on the error of v is 1 / sqrt(SNR) on that of eps (arXiv 2310.08442)."""

    base: Target

    def weight(self, sigma: PerSample) -> PerSample:
        return alpha(sigma) * sigma_vp(sigma)


@dataclass(frozen=True, kw_only=True)
class P2(Weighting):
    """(k + SNR)^-gamma (Choi et al., arXiv 2204.00227: base eps)."""

    base: Target
    k: Positive
    gamma: NonNegative

    def weight(self, sigma: PerSample) -> PerSample:
        return (self.k + snr(sigma)).pow(-self.gamma)


@dataclass(frozen=True, kw_only=True)
class TruncatedSNR(Weighting):
    """max(SNR, 1) / (SNR + 1), which on the error of v is max(SNR, 1) on that of x0 (arXiv 2202.00512)."""

    base: Target

    def weight(self, sigma: PerSample) -> PerSample:
        return torch.maximum(alpha(sigma), sigma_vp(sigma)).square()


@dataclass(frozen=True, kw_only=True)
class Sigmoid(Weighting):
    """sigmoid(bias - logSNR) (VDM++, arXiv 2303.00848; simpler diffusion, arXiv 2410.19324: base eps)."""

    base: Target
    bias: float

    def weight(self, sigma: PerSample) -> PerSample:
        return torch.sigmoid(self.bias + 2 * sigma.log())


@dataclass(frozen=True, kw_only=True)
class Importance(Weighting):
    """A weighting times intended / drawn density: the levels drawn change, the expected loss does not.

    It has no value at sigma = 0 and inf, which a density without atoms never draws. A drawn density that misses more
    than a thousandth of the intended draws is refused.
    """

    weighting: Weighting
    intended: Density
    drawn: Density

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, density in {"intended": self.intended, "drawn": self.drawn}.items():
            try:
                density.log_prob(torch.ones(1, dtype=torch.float64))
            except NotImplementedError as error:
                raise ConfigError(
                    f"{key(name)} needs a density with a log_prob, but {error}. Choose one that is continuous, "
                    f"such as table_interpolated in place of table_uniform."
                ) from error
        intended = self.intended.sigma((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)
        missed = intended[self.drawn.log_prob(intended) == -torch.inf]
        if len(missed):
            raise ConfigError(
                f"{key('drawn')} never draws sigma {missed[0]:.4g} to {missed[-1]:.4g}, where {key('intended')} has "
                f"levels. Choose a schedule that draws them, or truncate {key('intended')}."
            )

    @property
    def base(self) -> Target:
        return self.weighting.base

    def _ratio(self, sigma: PerSample) -> PerSample:
        return (self.intended.log_prob(sigma) - self.drawn.log_prob(sigma)).exp()

    def weight(self, sigma: PerSample) -> PerSample:
        return self.weighting.weight(sigma) * self._ratio(sigma)

    def penalty(self, sigma: PerSample) -> PerSample:
        return self.weighting.penalty(sigma) * self._ratio(sigma)


@dataclass(frozen=True, kw_only=True)
class RemappedTable(Weighting):
    """A weighting on the error of `base`, evaluated at the level that `read` has at the index of sigma in `table`.

    sd-scripts computes the SNR from the table before its zero-terminal rescale.
    """

    weighting: Weighting
    base: Target
    table: SigmaTable
    read: SigmaTable

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.table.sigmas) != len(self.read.sigmas):
            raise ConfigError(
                f"{key('read')} must have as many levels as {key('table')}, {len(self.table.sigmas)}, "
                f"got {len(self.read.sigmas)}"
            )

    def _level(self, sigma: PerSample) -> PerSample:
        return self.read.at(self.table.index(sigma))

    def weight(self, sigma: PerSample) -> PerSample:
        return self.weighting(self._level(sigma), self.base)

    def penalty(self, sigma: PerSample) -> PerSample:
        return self.weighting.penalty(self._level(sigma))
