"""Distances between the network's output and the ideal one, each the mean over all elements d of a sample.

Three functions are called Huber: torch's (`Huber`), the pseudo-Huber of sd-scripts and diffusers (`PseudoHuber`), and
the same without its factor, long known as Charbonnier's (`Charbonnier`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from ztsnr.core.checks import Part, Positive
from ztsnr.core.noise import expand
from ztsnr.core.schedule.table import SigmaTable
from ztsnr.core.shapes import PerSample, Samples


class Distance(Part):
    def __call__(self, output: Samples, ideal: Samples, sigma: PerSample, mask: Tensor | None = None) -> PerSample:
        """Each sample's mean distance, in float32 or better.

        A mask, (B, ...) or broadcastable to it, in [0, 1], multiplies each element's distance. The mean is still over
        all elements, as in sd-scripts, so that an element has the same weight in every sample. Divided by the mask's
        sum, the few unmasked elements of one sample would count as much as the many of another, and an empty mask
        would give 0 / 0.
        """
        dtype = torch.promote_types(output.dtype, torch.float32)
        distance = self.elementwise(output.to(dtype) - ideal.to(dtype), sigma)
        if mask is not None:
            distance = mask.to(dtype) * distance
        return distance.flatten(1).mean(1)

    def elementwise(self, d: Samples, sigma: PerSample) -> Samples:
        """The distance of each element, d being output - ideal."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class MSE(Distance):
    def elementwise(self, d: Samples, sigma: PerSample) -> Samples:
        return d.square()


@dataclass(frozen=True, kw_only=True)
class MAE(Distance):
    def elementwise(self, d: Samples, sigma: PerSample) -> Samples:
        return d.abs()


@dataclass(frozen=True, kw_only=True)
class Huber(Distance):
    """d² / 2 below delta, delta (|d| - delta / 2) above (torch.nn.functional.huber_loss)."""

    delta: Positive

    def elementwise(self, d: Samples, sigma: PerSample) -> Samples:
        return huber_loss(d, torch.zeros_like(d), reduction="none", delta=self.delta)


class Threshold(Part):
    """Where a pseudo-Huber distance changes from squared to absolute, as a function of the noise level."""

    def __call__(self, sigma: PerSample) -> PerSample:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ConstantThreshold(Threshold):
    c: Positive

    def __call__(self, sigma: PerSample) -> PerSample:
        return torch.full_like(sigma, self.c)


@dataclass(frozen=True, kw_only=True)
class ExponentialThreshold(Threshold):
    """c^(t / T), from 1 without noise towards c (arXiv 2403.16728; huber_schedule=exponential in sd-scripts)."""

    c: Positive
    table: SigmaTable

    def __call__(self, sigma: PerSample) -> PerSample:
        return self.c ** (self.table.index(sigma) / len(self.table.sigmas))


@dataclass(frozen=True, kw_only=True)
class SNRThreshold(Threshold):
    """c + (1 - c) / (1 + sigma)², from 1 without noise to c at sigma = inf (huber_schedule=snr in sd-scripts)."""

    c: Positive

    def __call__(self, sigma: PerSample) -> PerSample:
        return self.c + (1 - self.c) / (1 + sigma).square()


@dataclass(frozen=True, kw_only=True)
class PseudoHuber(Distance):
    """2 c (sqrt(d² + c²) - c): d² for small d, 2 c |d| for large (arXiv 2403.16728)."""

    threshold: Threshold

    def elementwise(self, d: Samples, sigma: PerSample) -> Samples:
        c = expand(self.threshold(sigma), d)
        return 2 * c * d.square() / (torch.hypot(d, c) + c)


@dataclass(frozen=True, kw_only=True)
class Charbonnier(Distance):
    """sqrt(d² + c²) - c: d² / (2 c) for small d, |d| for large."""

    threshold: Threshold

    def elementwise(self, d: Samples, sigma: PerSample) -> Samples:
        c = expand(self.threshold(sigma), d)
        return d.square() / (torch.hypot(d, c) + c)
