"""The objective: what a network is trained to minimise, and how it denoises once trained."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ztsnr import check
from ztsnr.distance import Distance
from ztsnr.errors import IncompatibleObjective
from ztsnr.noise import add_noise, expand
from ztsnr.schedule import Schedule
from ztsnr.target import Target
from ztsnr.weighting import Weighting

Network = Callable[..., Tensor]
"""network(z, t, **cond) -> output: z and output (B, ...), t (B,)."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    schedule: Schedule
    target: Target
    weighting: Weighting
    distance: Distance

    def __post_init__(self):
        for kind in (Schedule, Target, Weighting, Distance):
            name = kind.__name__.lower()
            check.instance(name, getattr(self, name), kind)
        if self.schedule.parts_at_inf and not self.target.finite_at_inf:
            raise IncompatibleObjective(
                f"target={type(self.target).__name__.lower()} cannot be used at sigma = inf, which is reached by the "
                f"schedule's {self.schedule.parts_at_inf}: there z holds no x0 to recover. Choose target=v, x0, edm or "
                f"flow, or a schedule with a finite terminal level (schedule=sdxl, schedule=laplace)."
            )

    def loss(self, network: Network, x0: Tensor, noise: Tensor, u: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """x0, noise (B, ...), u (B,) float64 in [0, 1) -> (B,), weighted, not reduced, a function of these alone."""
        sigma = self.schedule.density.sigma(u)
        output = self.output(network, add_noise(x0, noise, sigma), sigma, cond)
        distance = self.distance(output, self.target.output(x0, noise, sigma))
        return self.weighting(sigma, self.target).to(distance) * distance

    def output(self, network: Network, z: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """z (B, ...), sigma (B,) -> what the network says of them, (B, ...)."""
        t = self.schedule.timesteps(sigma).to(z.device, torch.float32)
        return network(expand(self.target.c_in(sigma), z) * z, t, **cond)

    def denoise(self, network: Network, z: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """z (B, ...), sigma () or (B,) -> the estimate of x0, (B, ...)."""
        sigma = sigma.expand(len(z))
        return self.target.denoised(self.output(network, z, sigma, cond), z, sigma)

    def cumulative_weight(self, sigma: Tensor, base: Target, draws: int = 2**16) -> Tensor:
        """W(sigma) = E_u[weight; sigma(u) <= sigma], the weight being on the squared error of `base`; (N,) -> (N,).

        Two objectives with the same target have proportional expected gradients iff their W are proportional (VDM++,
        arXiv 2303.00848). The expectation is a midpoint sum over `draws` values of u.
        """
        drawn = self.schedule.density.sigma((torch.arange(draws, dtype=torch.float64) + 0.5) / draws)
        mass = self.weighting(drawn, base).cumsum(0) / draws
        index = torch.searchsorted(drawn, sigma.double(), right=True)
        return torch.cat([mass.new_zeros(1), mass])[index]
