"""Normalised latents, x0 = (latent - mean) / std by channel, and a VAE that encodes and decodes x0 itself."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL


def is_default_normalisation(latents: Mapping[str, list[float]], vae_config: Mapping[str, Any]) -> bool:
    """Whether x0 is the VAE's latent times its own scaling factor."""
    mean = torch.tensor(latents["mean"])
    std = torch.tensor(latents["std"])
    return bool((mean == 0).all()) and torch.allclose(std * vae_config["scaling_factor"], torch.ones_like(std))


def fold_latents(vae: "AutoencoderKL", mean: list[float], std: list[float]) -> None:
    """Folds x0 = (latent - mean) / std into the VAE's two 1 x 1 convolutions.

    Its latents times its scaling factor are then x0, as programs without our normalisation expect.
    """
    shift = torch.tensor(mean)
    scale = torch.tensor(std) * vae.config["scaling_factor"]
    encoder_out = cast("nn.Conv2d", vae.quant_conv)
    decoder_in = cast("nn.Conv2d", vae.post_quant_conv)
    encoder_bias = cast("nn.Parameter", encoder_out.bias)
    decoder_bias = cast("nn.Parameter", decoder_in.bias)
    means = slice(0, len(mean))
    log_variances = slice(len(mean), None)
    with torch.no_grad():
        decoder_bias += decoder_in.weight[..., 0, 0] @ shift
        decoder_in.weight *= scale[:, None, None]
        encoder_out.weight[means] /= scale[:, None, None, None]
        encoder_bias[means] = (encoder_bias[means] - shift) / scale
        encoder_bias[log_variances] -= 2 * scale.log()
