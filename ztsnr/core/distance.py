"""Distances between the network's output and the ideal one, each the mean over all elements d of a sample.

Three functions are called Huber: torch's (`Huber`), the pseudo-Huber of sd-scripts and diffusers (`PseudoHuber`), and
the same without its factor, long known as Charbonnier's (`Charbonnier`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from ztsnr.core import checks
from ztsnr.core.noise import expand
from ztsnr.core.schedule.table import SigmaTable


class Distance:
    def __call__(self, output: Tensor, ideal: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, ...), (B, ...), (B,) -> (B,), in float32 or better.

        A mask, (B, ...) or what broadcasts to that, in [0, 1], multiplies each element's distance; the mean is over all
        elements none the less (as in sd-scripts). So each element weighs the same in every sample, where divided by
        the mask's sum the few of one sample would weigh as much as the many of another; and 0 / 0 cannot come about.
        """
        wide = torch.promote_types(output.dtype, torch.float32)
        found = self.of(output.to(wide) - ideal.to(wide), sigma)
        return (found if mask is None else mask.to(wide) * found).flatten(1).mean(1)

    def of(self, d: Tensor, sigma: Tensor) -> Tensor:
        """Each element's distance: d (B, ...), sigma (B,) -> (B, ...)."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class MSE(Distance):
    def of(self, d, sigma):
        return d.square()


@dataclass(frozen=True, kw_only=True)
class MAE(Distance):
    def of(self, d, sigma):
        return d.abs()


@dataclass(frozen=True, kw_only=True)
class Huber(Distance):
    """d² / 2 below delta, delta (|d| - delta / 2) above (torch.nn.functional.huber_loss)."""

    delta: float

    def __post_init__(self):
        checks.finite("distance.delta", self.delta, above=0)

    def of(self, d, sigma):
        return huber_loss(d, torch.zeros_like(d), reduction="none", delta=self.delta)


class Threshold:
    """Where a pseudo-Huber distance turns from squared to absolute, as a function of the noise level."""

    def __call__(self, sigma: Tensor) -> Tensor:
        """(B,) -> (B,)"""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ConstantThreshold(Threshold):
    c: float

    def __post_init__(self):
        checks.finite("distance.threshold.c", self.c, above=0)

    def __call__(self, sigma):
        return torch.full_like(sigma, self.c)


@dataclass(frozen=True, kw_only=True)
class ExponentialThreshold(Threshold):
    """c^(t / T), from 1 without noise towards c (arXiv 2403.16728; huber_schedule=exponential in sd-scripts)."""

    c: float
    table: SigmaTable

    def __post_init__(self):
        checks.finite("distance.threshold.c", self.c, above=0)
        checks.instance("distance.threshold.table", self.table, SigmaTable)

    def __call__(self, sigma):
        return self.c ** (self.table.index(sigma) / len(self.table.sigmas))


@dataclass(frozen=True, kw_only=True)
class SNRThreshold(Threshold):
    """c + (1 - c) / (1 + sigma)², from 1 without noise to c at sigma = inf (huber_schedule=snr in sd-scripts)."""

    c: float

    def __post_init__(self):
        checks.finite("distance.threshold.c", self.c, above=0)

    def __call__(self, sigma):
        return self.c + (1 - self.c) / (1 + sigma).square()


@dataclass(frozen=True, kw_only=True)
class PseudoHuber(Distance):
    """2 c (sqrt(d² + c²) - c): d² for small d, 2 c |d| for large (arXiv 2403.16728)."""

    threshold: Threshold

    def __post_init__(self):
        checks.instance("distance.threshold", self.threshold, Threshold)

    def of(self, d, sigma):
        c = expand(self.threshold(sigma), d)
        return 2 * c * d.square() / (torch.hypot(d, c) + c)


@dataclass(frozen=True, kw_only=True)
class Charbonnier(Distance):
    """sqrt(d² + c²) - c: d² / (2 c) for small d, |d| for large."""

    threshold: Threshold

    def __post_init__(self):
        checks.instance("distance.threshold", self.threshold, Threshold)

    def of(self, d, sigma):
        c = expand(self.threshold(sigma), d)
        return d.square() / (torch.hypot(d, c) + c)
