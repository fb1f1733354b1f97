"""The parts of a pretrained model, each loaded alone."""

import hashlib

import torch
from torch import nn

from ztsnr.models.source import TEXT_MODEL, find_source


def load_vae(pretrained: str) -> nn.Module:
    """diffusers' AutoencoderKL in float32, in which SDXL's does not overflow; in eval mode, frozen."""
    return _frozen(load_part(pretrained, "vae"))


def load_unet(pretrained: str) -> nn.Module:
    """diffusers' UNet2DConditionModel in float32."""
    return load_part(pretrained, "unet")


def load_part(pretrained: str, part: str) -> nn.Module:
    """In float32. Raises CheckpointError."""
    return find_source(pretrained).network(part)


def fingerprint(pretrained: str, part: str) -> str:
    """A hash of the weights of "vae", "text_encoder", ..., and of the scale of a VAE's latents: 32 hex digits."""
    source, digest = find_source(pretrained), hashlib.blake2b(digest_size=16)
    digest.update(repr(source.config(part).get("scaling_factor")).encode())
    for name, tensor in source.tensors(part):
        digest.update(f"{name.removeprefix(TEXT_MODEL)} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _frozen(network: nn.Module) -> nn.Module:
    return network.requires_grad_(False).eval()
