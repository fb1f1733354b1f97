"""Opening a pretrained model: a diffusers folder, a name on the hub, or a single file. Never a pickle."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import nn

from ztsnr.core.errors import CheckpointError
from ztsnr.models.original_file import OriginalFile
from ztsnr.models.source import DiffusersFolder, HubModel, PartFolder, Source

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

PICKLES = (".ckpt", ".pt", ".pth", ".bin")


def find_source(pretrained: str) -> Source:
    """Raises CheckpointError."""
    path = Path(str(pretrained))
    if path.suffix.lower() in PICKLES:
        raise CheckpointError(
            f"model.pretrained={pretrained} is a pickle, which can run any code when it is read. "
            f"Use the same weights as .safetensors."
        )
    if path.suffix.lower() == ".safetensors":
        if not path.is_file():
            raise CheckpointError(f"model.pretrained={pretrained} is not a file")
        return OriginalFile(path)
    if path.is_dir():
        is_part = (path / "config.json").is_file()
        return PartFolder(str(pretrained)) if is_part else DiffusersFolder(str(pretrained))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(pretrained)):
        return HubModel(str(pretrained))
    raise CheckpointError(
        f"model.pretrained={pretrained} does not exist. It must be a diffusers folder, a .safetensors file, or a name "
        f"on the hub such as stabilityai/stable-diffusion-xl-base-1.0"
    )


def load_vae(pretrained: str) -> "AutoencoderKL":
    """In float32, in eval mode, frozen. Raises CheckpointError."""
    return find_source(pretrained).vae()


def load_unet(pretrained: str) -> "UNet2DConditionModel":
    """In float32. Raises CheckpointError."""
    return cast("UNet2DConditionModel", load_part(pretrained, "unet"))


def load_part(pretrained: str, part: str) -> nn.Module:
    """In float32. Raises CheckpointError."""
    return find_source(pretrained).network(part)
