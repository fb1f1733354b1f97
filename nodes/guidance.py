"""Changes of the guided estimate of x0, after any kind of guidance: functions for ComfyUI's post_cfg hook.

ComfyUI calls each with the estimates (B, ...) `denoised` and `cond_denoised`, `input` x, and `sigma` (B,).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ztsnr.core.errors import ConfigError
from ztsnr.core.noise import alpha, expand, sigma_vp, snr
from ztsnr.core.sampling import rescale_v
from ztsnr.core.schedule.density import Karras, LogUniform

from .tables import Levels

RHO = 7.0


def _step(sigma: Tensor, levels: Tensor) -> Tensor:
    return Levels(levels=tuple(levels.tolist())).index(sigma) / (len(levels) - 1)


def _cosine(sigma: Tensor, levels: Tensor) -> Tensor:
    return (torch.pi / 2 * _step(sigma, levels)).sin().square()


def _karras(sigma: Tensor, levels: Tensor) -> Tensor:
    return Karras(sigma_min=levels[0].item(), sigma_max=levels[-1].item(), rho=RHO).cdf(sigma)


def _exponential(sigma: Tensor, levels: Tensor) -> Tensor:
    return LogUniform(sigma_min=levels[0].item(), sigma_max=levels[-1].item()).cdf(sigma)


BY_SIGMA: dict[str, Callable[[Tensor], Tensor]] = {
    "constant": torch.ones_like,
    "noise share": lambda sigma: sigma_vp(sigma).square(),
}
"""share(sigma) -> like sigma (B,), from 0 to 1."""

BY_LEVELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": _step,
    "cosine": _cosine,
    "karras": _karras,
    "exponential": _exponential,
}
"""share(sigma, levels) -> likewise: 1 at the highest of the levels above 0 that sampling visits, 0 at the lowest."""

METHODS = (*BY_SIGMA, *BY_LEVELS)


def put_post_cfg(model, function) -> None:
    """Appends the function to those of other nodes, and removes an earlier one of its class."""
    earlier = model.model_options.get("sampler_post_cfg_function", [])
    others = [other for other in earlier if type(other) is not type(function)]
    model.model_options["sampler_post_cfg_function"] = others
    model.set_model_sampler_post_cfg_function(function)


def visited_levels(model_options: dict) -> Tensor:
    """(N,) float64 on the CPU, ascending: the levels above 0 that the current sampling visits."""
    sigmas = model_options.get("transformer_options", {}).get("sample_sigmas")
    if sigmas is None:
        raise ConfigError("this ComfyUI does not pass the sampled levels to nodes. Update it, or use method=constant.")
    return sigmas[sigmas > 0].double().cpu().unique()


@dataclass(frozen=True, kw_only=True)
class DynamicSNR:
    """Guidance weighted by min(SNR, gamma) / gamma; gamma 0 is its limit, no change."""

    gamma: float

    def __call__(self, args: dict) -> Tensor:
        if self.gamma == 0:
            return args["denoised"]
        weight = (snr(args["sigma"].double().cpu()) / self.gamma).clamp(max=1)
        return torch.lerp(args["cond_denoised"], args["denoised"], expand(weight, args["denoised"]))


@dataclass(frozen=True, kw_only=True)
class Rescale:
    """Lin et al.'s rescale (arXiv 2305.08891, Algorithm 2) by multiplier * share, on v or on x0."""

    multiplier: float
    method: str
    space: str

    def __call__(self, args: dict) -> Tensor:
        denoised = args["denoised"]
        positive = args["cond_denoised"]
        x = args["input"]
        sigma = args["sigma"].double().cpu()
        amount = self.multiplier * self.share(sigma, args["model_options"]).to(x)
        if self.space == "v":
            return rescale_v(denoised, positive, expand(alpha(sigma), x) * x, sigma, amount)
        ratio = positive.flatten(1).std(1) / denoised.flatten(1).std(1)
        return denoised * expand(1 + amount * (ratio - 1), denoised)

    def share(self, sigma: Tensor, model_options: dict) -> Tensor:
        """sigma (B,) float64 -> (B,), from 0 to 1."""
        if self.method in BY_SIGMA:
            return BY_SIGMA[self.method](sigma)
        levels = visited_levels(model_options)
        return BY_LEVELS[self.method](sigma, levels) if len(levels) > 1 else torch.ones_like(sigma)
