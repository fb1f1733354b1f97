"""Samplers from noise to data, and classifier-free guidance. All act on z, so sigma = inf is an ordinary level.

A step is z' = alpha(sigma') * denoised + sigma_vp(sigma') * noise_estimate; from inf the noise estimate is z.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ztsnr.core.checks import Fraction, NonNegative, Part
from ztsnr.core.errors import ConfigError
from ztsnr.core.noise import alpha, expand, sigma_vp
from ztsnr.core.shapes import Samples

if TYPE_CHECKING:  # ComfyUI's nodes sample without an objective
    from ztsnr.core.objective import Network, Objective

Denoise = Callable[[Tensor, Tensor], Tensor]
"""denoise(z, sigma) -> the estimate of x0, like z (B, ...); sigma is a scalar tensor."""

OnStep = Callable[[int, Tensor], None]
"""on_step(index, denoised), after each step."""


def no_op(index: int, denoised: Tensor) -> None:
    pass


def step_to(denoised: Samples, z: Samples, sigma: Tensor, sigma_next: Tensor) -> Samples:
    """One step of DDIM (arXiv 2010.02502), which is Euler's on z / alpha (arXiv 2206.00364)."""
    ratio = sigma_vp(sigma_next) / sigma_vp(sigma)
    return expand(ratio, z) * z + expand(alpha(sigma_next) - alpha(sigma) * ratio, z) * denoised


class Sampler(Part):
    def __call__(self, denoise: Denoise, z: Samples, sigmas: Tensor, on_step: OnStep = no_op) -> Samples:
        """From z at sigmas[0] to x0; sigmas (steps + 1,), decreasing to 0."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Euler(Sampler):
    """First order; on z this is DDIM."""

    def __call__(self, denoise: Denoise, z: Samples, sigmas: Tensor, on_step: OnStep = no_op) -> Samples:
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            denoised = denoise(z, sigma)
            z = step_to(denoised, z, sigma, sigma_next)
            on_step(i, denoised)
        return z


@dataclass(frozen=True, kw_only=True)
class Heun(Sampler):
    """Second order: Heun's correction in the angle atan(sigma), whose range is finite.

    EDM's Heun (arXiv 2206.00364, Algorithm 1) corrects in sigma, by a factor that grows without bound on the way down
    from the terminal level; the two agree to leading order elsewhere. The last step, to 0, is Euler's, as there.
    """

    def __call__(self, denoise: Denoise, z: Samples, sigmas: Tensor, on_step: OnStep = no_op) -> Samples:
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            denoised = denoise(z, sigma)
            z = step_to(denoised, z, sigma, sigma_next)
            if sigma_next > 0:
                gain = (sigma.atan() - sigma_next.atan()) / (2 * sigma_vp(sigma_next))
                z = z + expand(gain, z) * (denoise(z, sigma_next) - denoised)
            on_step(i, denoised)
        return z


@dataclass(frozen=True, kw_only=True)
class DPMpp2M(Sampler):
    """Second order with one evaluation a step: multistep DPM-Solver++ (arXiv 2211.01095, Algorithm 2).

    After a step from sigma = inf the correction is 0, since that step's width is infinite. The last
    step, to 0, is first order.
    """

    def __call__(self, denoise: Denoise, z: Samples, sigmas: Tensor, on_step: OnStep = no_op) -> Samples:
        previous = last_width = None
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            denoised = denoise(z, sigma)
            width = sigma.log() - sigma_next.log()
            extrapolated = denoised
            if previous is not None and last_width is not None and sigma_next > 0:
                extrapolated = denoised + expand(width / (2 * last_width), z) * (denoised - previous)
            z = step_to(extrapolated, z, sigma, sigma_next)
            previous = denoised
            last_width = width
            on_step(i, denoised)
        return z


def rescale_v(guided: Samples, positive: Samples, z: Samples, sigma: Tensor, rescale: Tensor | float) -> Samples:
    """The guided estimate of x0, its v moved by the share `rescale`, () or (B,), to the deviation of the positive v.

    Lin et al. (arXiv 2305.08891, Algorithm 2); sigma > 0.
    """
    signal = expand(alpha(sigma), z)
    noise = expand(sigma_vp(sigma), z)
    v_positive = (signal * z - positive) / noise
    v_guided = (signal * z - guided) / noise
    ratio = v_positive.flatten(1).std(1) / v_guided.flatten(1).std(1)
    return signal * z - noise * v_guided * expand(1 + rescale * (ratio - 1), z)


@dataclass(frozen=True, kw_only=True)
class Guidance(Part):
    """Classifier-free guidance (arXiv 2207.12598) with the rescale of Lin et al. (arXiv 2305.08891, Algorithm 2).

    scale 1 is no guidance; rescale 0 does not change the guided v, 1 gives it the deviation of the conditional one.
    """

    scale: NonNegative
    rescale: Fraction

    def combine(self, positive: Samples, negative: Samples, z: Samples, sigma: Tensor) -> Samples:
        """The guided estimate of x0 from the conditional and the negative one. The rescale acts on v; sigma > 0."""
        guided = negative + self.scale * (positive - negative)
        if self.rescale == 0:
            return guided
        return rescale_v(guided, positive, z, sigma, self.rescale)


Cond = Mapping[str, Tensor]


def guided_denoise(
    objective: "Objective", network: "Network", cond: Cond, negative: Cond, guidance: Guidance
) -> Denoise:
    """The objective's denoiser under conditions (B, ...) each; the network computes both branches as one batch."""
    if guidance.scale == 1:
        return lambda z, sigma: objective.denoise(network, z, sigma, cond)
    if cond.keys() != negative.keys():
        raise ConfigError(
            f"the negative conditions must be {sorted(cond)}, as the positive ones are, got {sorted(negative)}"
        )
    both = {name: torch.cat([cond[name], negative[name]]) for name in cond}

    def denoise(z: Tensor, sigma: Tensor) -> Tensor:
        positive, unconditional = objective.denoise(network, torch.cat([z, z]), sigma, both).chunk(2)
        return guidance.combine(positive, unconditional, z, sigma)

    return denoise
