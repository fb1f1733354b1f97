"""ComfyUI's view of a noise schedule: an explicit table of sigmas, and latents with statistics of their own.

ComfyUI samples on x = x0 + sigma * noise in float32, which cannot hold sigma = inf: CEILING stands for it.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import comfy.latent_formats
import comfy.model_sampling
import torch
from torch import Tensor

from ztsnr import check
from ztsnr.errors import ConfigError
from ztsnr.noise import alpha
from ztsnr.schedule.table import ScaledLinear, SigmaTable, ZeroTerminal, sigmas_from_alpha_bar

from .checkpoint import Facts

CEILING = 20000.0
"""What sigma = inf becomes. Lower, the limit is missed by more (1e-4 of x0 here); higher, float32 loses more."""

NATIVE_SCALE = 8
"""Pixels of the picture to one of the latent, along a side."""


@dataclass(frozen=True, kw_only=True)
class Levels(SigmaTable):
    """The given levels, ascending."""

    levels: tuple[float, ...]

    @cached_property
    def sigmas(self) -> Tensor:
        return torch.tensor(self.levels, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Stretched(SigmaTable):
    """Another table, shifted and scaled in alpha to run from sigma_min to sigma_max."""

    table: SigmaTable
    sigma_min: float
    sigma_max: float

    @cached_property
    def sigmas(self) -> Tensor:
        root = alpha(self.table.sigmas)
        low, high = alpha(torch.tensor([self.sigma_min, self.sigma_max], dtype=torch.float64))
        root = high + (low - high) * (root - root[-1]) / (root[0] - root[-1])
        sigmas = sigmas_from_alpha_bar(root.square())
        sigmas[0], sigmas[-1] = self.sigma_min, self.sigma_max  # exactly, whatever the root rounds to
        return sigmas


def check_model(model) -> None:
    """Refuses all models but the U-Nets of SD and SDXL."""
    if isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST):
        raise ConfigError("model is a flow-matching model, whose noise has no such schedule. Use an SD or SDXL model.")
    config = model.model.model_config
    unet, betas = config.unet_config, config.sampling_settings.get("beta_schedule", "linear")
    known = "image_model" not in unet and unet.get("context_dim") and not unet.get("use_temporal_attention")
    if not known or betas != "linear":
        raise ConfigError(f"model must be an SD or SDXL U-Net, got {type(config).__name__}")


def own_table(model) -> ScaledLinear:
    """The table that the model was made with, whatever nodes have patched since."""
    settings = model.model.model_config.sampling_settings
    start, end = settings.get("linear_start", 0.00085), settings.get("linear_end", 0.012)
    return ScaledLinear(beta_start=start, beta_end=end, steps=settings.get("timesteps", 1000))


def made_table(model, zero_terminal: bool, sigma_min: float, sigma_max: float) -> SigmaTable:
    """The model's own table between other ends; with zero_terminal, Lin et al.'s, sigma_max standing for inf.

    sigma_min 0 is the own table's lowest level.
    """
    own = own_table(model)
    sigma_min = sigma_min or own.sigmas[0].item()
    check.ascending("sigma_min", sigma_min, "sigma_max", sigma_max)
    if not zero_terminal:
        return Stretched(table=own, sigma_min=sigma_min, sigma_max=sigma_max)
    own_max = own.sigmas[-1].item()
    if sigma_min >= own_max:
        raise ConfigError(f"sigma_min must be below the model's own highest level, {own_max:.6g}, got {sigma_min}")
    table = ZeroTerminal(table=Stretched(table=own, sigma_min=sigma_min, sigma_max=own_max), terminal=math.inf)
    below = table.sigmas[-2].item()
    if sigma_max <= below:
        raise ConfigError(
            f"sigma_max stands for infinity and must exceed the level before it, {below:.6g}, got {sigma_max}. "
            f"Turn zero_terminal off for a model that ends there."
        )
    return replace(table, terminal=sigma_max)


class TableSampling(comfy.model_sampling.ModelSamplingDiscrete):
    """An explicit table of any length; what the network is told is its fractional index, as in training.

    `factor` moves the levels that schedulers visit, for another resolution; the terminal level stays, and the network
    is told the truth of each level.
    """

    def __init__(self, facts: Facts, factor: float = 1.0):
        super().__init__()
        levels = [*facts.sigmas[:-1], min(facts.sigmas[-1], CEILING)]
        if levels[-2] >= CEILING:
            raise ConfigError(f"all levels but the last must lie below {CEILING:g}, got {levels[-2]:.6g}")
        self.table = Levels(levels=tuple(levels))
        self.sigma_data = facts.sigma_data
        self.grid = facts.grid
        visited = self.table.sigmas * factor
        visited[-1] = levels[-1]
        if visited[-2] >= visited[-1]:
            raise ConfigError(f"resolution {factor:.3g} times the native one moves {visited[-2]:.6g} past the terminal")
        self.set_sigmas(visited)

    def timestep(self, sigma: Tensor) -> Tensor:
        return self.table.index(sigma.detach().cpu().flatten()).view(sigma.shape).to(sigma.device, torch.float32)

    def percent_to_sigma(self, percent: float) -> float:
        """0 and 1 as ComfyUI has them: above and below every level."""
        if not 0 < percent < 1:
            return 999999999.9 if percent <= 0 else 0.0
        return self.sigma(torch.tensor((1 - percent) * (len(self.sigmas) - 1))).item()


def model_sampling(facts: Facts, factor: float = 1.0) -> TableSampling:
    """With ComfyUI's own prediction of the target, so that what asks for its class finds it."""
    predictions = comfy.model_sampling
    by_target = {"v": predictions.V_PREDICTION, "eps": predictions.EPS, "x0": predictions.X0, "edm": predictions.EDM}
    return type("ZTSNRSampling", (TableSampling, by_target[facts.target]), {})(facts, factor)


def resolution_factor(latent: Tensor, native: int) -> float:
    """Side of the picture by the native side, in the geometric mean: how much more noise hides as much of it."""
    height, width = latent.shape[-2:]
    return math.sqrt(height * width) * NATIVE_SCALE / native


class NormalisedLatents(comfy.latent_formats.SDXL):
    """The model knows (latent - mean) / std, channel by channel; previews are moved likewise."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.mean, self.std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
        factors = torch.tensor(self.latent_rgb_factors)
        bias = (self.scale_factor * torch.tensor(mean)) @ factors + torch.tensor(self.latent_rgb_factors_bias)
        self.latent_rgb_factors = (factors * self.scale_factor * torch.tensor(std)[:, None]).tolist()
        self.latent_rgb_factors_bias = bias.tolist()
        self.taesd_decoder_name = None

    def process_in(self, latent: Tensor) -> Tensor:
        return (latent - self.mean.to(latent)) / self.std.to(latent)

    def process_out(self, latent: Tensor) -> Tensor:
        return latent * self.std.to(latent) + self.mean.to(latent)
