"""The networks that a pretrained model consists of: their classes, their types and the names of their tensors."""

from typing import Any

import torch
from torch import Tensor, nn

TEXT_MODEL = "text_model."
"""A prefix that only some versions of transformers put before the names of a text encoder's tensors."""


def to_dtype(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Converts its parameters in place; diffusers' own way warns of layers that no model here has."""
    for p in network.parameters():
        p.data = p.data.to(dtype)
    return network


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """Its tensors, a text encoder's by the names that all versions of transformers agree on."""
    return {name.removeprefix(TEXT_MODEL): value for name, value in network.state_dict().items()}


def part_class(part: str) -> type[Any]:
    """diffusers' or transformers' class of "unet", "vae", "text_encoder" or "text_encoder_2"."""
    if part == "unet":
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        return UNet2DConditionModel
    if part == "vae":
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        return AutoencoderKL

    from transformers import CLIPTextModel, CLIPTextModelWithProjection
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # it would interrupt ours, for each part
    return CLIPTextModel if part == "text_encoder" else CLIPTextModelWithProjection
