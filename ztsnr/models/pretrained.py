"""The parts of a pretrained model, each loaded by itself."""

import hashlib
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from ztsnr.models.parts import TEXT_MODEL
from ztsnr.models.source import find_source

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


def load_vae(pretrained: str) -> "AutoencoderKL":
    """In float32, in which SDXL's does not overflow; in eval mode, frozen."""
    vae = cast("AutoencoderKL", load_part(pretrained, "vae"))
    return vae.requires_grad_(False).eval()


def load_unet(pretrained: str) -> "UNet2DConditionModel":
    """In float32."""
    return cast("UNet2DConditionModel", load_part(pretrained, "unet"))


def load_part(pretrained: str, part: str) -> nn.Module:
    """In float32. Raises CheckpointError."""
    return find_source(pretrained).network(part)


def fingerprint(pretrained: str, part: str) -> str:
    """A hash of the weights of "vae", "text_encoder", ..., and of the scale of a VAE's latents: 32 hex digits."""
    source = find_source(pretrained)
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr(source.config(part).get("scaling_factor")).encode())
    for name, tensor in source.tensors(part):
        digest.update(f"{name.removeprefix(TEXT_MODEL)} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
