"""ComfyUI's view of a model: an explicit table of sigmas, the network's timesteps, and latents of its own."""

import math

import comfy.latent_formats  # pyright: ignore[reportMissingImports]
import comfy.model_sampling  # pyright: ignore[reportMissingImports]
import torch
from torch import Tensor

from ztsnr.core.errors import ConfigError

from .checkpoint import Facts

NATIVE_SCALE = 8
"""Pixels of an image per pixel of its latent, along a side."""


def check_model(model) -> None:
    """Refuses all models but the U-Nets of SD and SDXL."""
    if isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST):
        raise ConfigError("model is a flow-matching model, whose noise has no such schedule. Use an SD or SDXL model.")
    config = model.model.model_config
    unet = config.unet_config
    betas = config.sampling_settings.get("beta_schedule", "linear")
    known = "image_model" not in unet and unet.get("context_dim") and not unet.get("use_temporal_attention")
    if not known or betas != "linear":
        raise ConfigError(f"model must be an SD or SDXL U-Net, got {type(config).__name__}")


class TableSampling(comfy.model_sampling.ModelSamplingDiscrete):
    """An explicit table of any length; the network receives the timesteps that it was trained with.

    `factor` multiplies the levels that schedulers visit, for a different resolution. The terminal level stays, and the
    network receives the timestep of the true level.
    """

    def __init__(self, facts: Facts, factor: float = 1.0):
        super().__init__()
        self.timesteps = facts.timesteps
        self.sigma_data = facts.sigma_data
        self.grid = facts.grid
        self.factor = factor
        visited = facts.table.sigmas * factor
        visited[-1] = facts.table.sigmas[-1]
        if visited[-2] >= visited[-1]:
            raise ConfigError(
                f"resolution {factor:.3g} times the native one would move a level to {visited[-2]:.6g}, "
                f"above the terminal one"
            )
        self.set_sigmas(visited)

    def timestep(self, sigma: Tensor) -> Tensor:
        return self.timesteps(sigma.detach().cpu().flatten()).view(sigma.shape).to(sigma.device, torch.float32)

    def percent_to_sigma(self, percent: float) -> float:
        """0 and 1 as in ComfyUI: above and below every level."""
        if not 0 < percent < 1:
            return 999999999.9 if percent <= 0 else 0.0
        return self.sigma(torch.tensor((1 - percent) * (len(self.sigmas) - 1))).item()


def model_sampling(facts: Facts, factor: float = 1.0) -> TableSampling:
    """Derives from ComfyUI's own class for the target too, so that other nodes' isinstance checks find it."""
    predictions = comfy.model_sampling
    by_target = {"v": predictions.V_PREDICTION, "eps": predictions.EPS, "x0": predictions.X0, "edm": predictions.EDM}
    return type("ZTSNRSampling", (TableSampling, by_target[facts.target]), {})(facts, factor)


def resolution_factor(latent: Tensor, native: int) -> float:
    """The image's side, a geometric mean, over the native side: by how much noise must grow to hide as much."""
    height, width = latent.shape[-2:]
    return math.sqrt(height * width) * NATIVE_SCALE / native


class NormalisedLatents(comfy.latent_formats.LatentFormat):
    """The model's latents are (latent - mean) / std, by channel; the previews of `plain` are adapted to them."""

    def __init__(self, plain, mean: tuple[float, ...], std: tuple[float, ...]):
        self.mean = torch.tensor(mean).view(1, -1, 1, 1)
        self.std = torch.tensor(std).view(1, -1, 1, 1)
        factors = plain.scale_factor * torch.tensor(plain.latent_rgb_factors)
        bias = torch.tensor(plain.latent_rgb_factors_bias or (0.0, 0.0, 0.0)) + torch.tensor(mean) @ factors
        self.latent_rgb_factors = (torch.tensor(std)[:, None] * factors).tolist()
        self.latent_rgb_factors_bias = bias.tolist()

    def process_in(self, latent: Tensor) -> Tensor:
        return (latent - self.mean.to(latent)) / self.std.to(latent)

    def process_out(self, latent: Tensor) -> Tensor:
        return latent * self.std.to(latent) + self.mean.to(latent)
