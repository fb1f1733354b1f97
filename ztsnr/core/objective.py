"""The objective: what a network is trained to minimise, and how the trained network denoises."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ztsnr.core.checks import Part, key
from ztsnr.core.distance import MSE, Distance
from ztsnr.core.errors import ConfigError, IncompatibleObjective
from ztsnr.core.format_names import TARGET_NAMES
from ztsnr.core.learned import modules_in
from ztsnr.core.noise import add_noise, expand
from ztsnr.core.schedule import Schedule
from ztsnr.core.shapes import PerSample, Samples
from ztsnr.core.target import Target
from ztsnr.core.weighting import Weighting

Network = Callable[..., Tensor]
"""network(z, t, **cond) -> output: z and output (B, ...), t (B,)."""


class Terms(NamedTuple):
    """The result of one evaluation of the network on a batch; it depends only on the arguments of `terms`."""

    loss: PerSample
    """Weighted, not reduced."""
    sigma: PerSample
    """float64, the quantiles of u."""
    output: Samples
    """The network's."""
    ideal: Samples
    """The output that the target asks for."""


@dataclass(frozen=True, kw_only=True)
class Objective(Part):
    schedule: Schedule
    target: Target
    weighting: Weighting
    distance: Distance
    normalise_weight: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule.parts_at_inf and not self.target.finite_at_inf:
            name = TARGET_NAMES.get(type(self.target), repr(self.target))
            raise IncompatibleObjective(
                f"target={name} cannot be used at sigma = inf, which is reached by the "
                f"schedule's {self.schedule.parts_at_inf}: there z holds no x0 to recover. Choose target=v, x0, edm or "
                f"flow, or a schedule with a finite terminal level (schedule=sdxl, schedule=laplace)."
            )
        self._check_learned()
        if self.normalise_weight:
            self._check_scale()

    def _check_learned(self) -> None:
        if "weighting" not in self.learned:
            return
        sigma = self.draws(2**12)
        idle = sigma[self.learned["weighting"](sigma, self.target) == 0]
        if len(idle):
            raise IncompatibleObjective(
                f"a learned weighting needs an initial weight above 0, but at sigma {idle[0]:.4g} to {idle[-1]:.4g} "
                f"it is 0: its loss would be unbounded below there. Choose "
                f"weighting@weighting.weighting=min_snr_plus_one or unit_v."
            )

    def _check_scale(self) -> None:
        if self.learned:
            raise ConfigError(f"{key('normalise_weight')}=true needs a weighting and a density that are not learned")
        few = self.weighting(self.draws(2**12), self.target).mean().item()
        many = self.weighting(self.draws(2**16), self.target).mean().item()
        if not abs(few - many) < 0.1 * many:  # true also where one is 0, inf or nan
            raise ConfigError(
                f"{key('normalise_weight')}=true needs a weight with a finite mean above 0, but over 4096 draws it is "
                f"{few:.4g} and over 65536 {many:.4g}. Use {key('normalise_weight')}=false."
            )

    def terms(
        self,
        network: Network,
        x0: Samples,
        noise: Samples,
        u: PerSample,
        cond: Mapping[str, Tensor],
        *,
        mask: Tensor | None = None,
    ) -> Terms:
        """`u`: the quantiles of the density to train at, float64 in [0, 1). `mask`, (B, ...): see Distance."""
        sigma = self.schedule.density.sigma(u)
        output = self.output(network, add_noise(x0, noise, sigma), sigma, cond)
        ideal = self.target.output(x0, noise, sigma)

        distance = self.distance(output, ideal, sigma, mask)
        weight = self.weighting(sigma, self.target) * self.scale
        loss = weight.to(distance) * distance + self.weighting.penalty(sigma).to(distance)
        return Terms(loss, sigma, output, ideal)

    @torch.no_grad()
    def x0_error(self, terms: Terms, mask: Tensor | None = None) -> PerSample:
        """The mean squared error of x0, float64: that of the output, times c_out²."""
        error = MSE()(terms.output, terms.ideal, terms.sigma, mask).to(terms.sigma)
        return self.target.c_out(terms.sigma).square() * error

    def output(self, network: Network, z: Samples, sigma: PerSample, cond: Mapping[str, Tensor]) -> Samples:
        """The network's output for z."""
        t = self.schedule.timesteps(sigma).to(z.device, torch.float32)
        return network(expand(self.target.c_in(sigma), z) * z, t, **cond)

    def denoise(self, network: Network, z: Samples, sigma: Tensor, cond: Mapping[str, Tensor]) -> Samples:
        """The estimate of x0, for sigma (B,) or ()."""
        sigma = sigma.expand(len(z))
        return self.target.denoised(self.output(network, z, sigma, cond), z, sigma)

    @cached_property
    def scale(self) -> float:
        """1, or with `normalise_weight` 1 / E[weight]: one learning rate and one clipping then suit all weightings."""
        if not self.normalise_weight:
            return 1.0
        return 1 / self.weighting(self.draws(2**16), self.target).mean().item()

    @cached_property
    def learned(self) -> nn.ModuleDict:
        """The parts that change in training, by name: a learned weighting, an adaptive density. Usually none."""
        learned = nn.ModuleDict()
        for name, part in {"weighting": self.weighting, "density": self.schedule.density}.items():
            modules = modules_in(part)
            if len(modules) > 1:
                raise ConfigError(f"{name} has {len(modules)} learned parts; only one is supported")
            if modules:
                learned[name] = modules[0]
        return learned

    def draws(self, count: int) -> Tensor:
        """(count,) ascending: the density's quantiles at the middles of equal strata."""
        return self.schedule.density.sigma((torch.arange(count, dtype=torch.float64) + 0.5) / count)

    @torch.no_grad()
    def cumulative_weight(self, sigma: Tensor, base: Target, draws: int = 2**16) -> Tensor:
        """W(sigma) = E_u[weight; sigma(u) <= sigma], the weight being on the squared error of `base`; (N,) -> (N,).

        Two objectives with the same target have proportional expected gradients iff their W are proportional (VDM++,
        arXiv 2303.00848). The expectation is a midpoint sum over `draws` values of u. `scale` is not applied.
        """
        levels = self.draws(draws)
        mass = self.weighting(levels, base).cumsum(0) / draws
        index = torch.searchsorted(levels, sigma.double(), right=True)
        return torch.cat([mass.new_zeros(1), mass])[index]
