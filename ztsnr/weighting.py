"""Loss weightings, each declared once, on the squared error of one target, and converted to whatever is trained."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ztsnr import check
from ztsnr.noise import snr
from ztsnr.target import Target


class Weighting:
    base: Target
    """The target whose squared error `weight` multiplies."""

    def weight(self, sigma: Tensor) -> Tensor:
        """(B,) -> (B,), on the squared error of `base`."""
        raise NotImplementedError

    def __call__(self, sigma: Tensor, target: Target) -> Tensor:
        """(B,) -> (B,), the same weighting on the squared error of `target`: times (c_out_target / c_out_base)²."""
        weight = self.weight(sigma)
        return weight if target == self.base else weight * self.base.gain(sigma) / target.gain(sigma)


@dataclass(frozen=True, kw_only=True)
class Unit(Weighting):
    """Weight 1 on the base: the plain mean squared error of that target, whatever the network predicts."""

    base: Target

    def __post_init__(self):
        check.instance("weighting.base", self.base, Target)

    def weight(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)


@dataclass(frozen=True, kw_only=True)
class MinSNR(Weighting):
    """min(SNR, gamma) on the error of x0 (Hang et al., arXiv 2303.09556). Its weight at sigma = inf is 0."""

    base: Target
    gamma: float

    def __post_init__(self):
        check.instance("weighting.base", self.base, Target)
        check.finite("weighting.gamma", self.gamma, above=0)

    def weight(self, sigma: Tensor) -> Tensor:
        return snr(sigma).clamp(max=self.gamma)
