"""diffusers' U-Net for small images with classes."""

from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn

from ztsnr.core import checks
from ztsnr.core.checks import key
from ztsnr.core.errors import ConfigError


class UNet(nn.Module):
    """diffusers' U-Net over pixels, with classes: a level for each entry of `channels`, attention in the last."""

    def __init__(
        self, *, shape: list[int], classes: int, channels: list[int], layers: int, gradient_checkpointing: bool
    ) -> None:
        checks.integer("layers", layers, at_least=1)
        checks.numbers("channels", channels, at_least=8)
        if any(width % 8 for width in channels):
            raise ConfigError(f"{key('channels')} must be multiples of 8, got {channels}")
        if any(side % 2 ** (len(channels) - 1) for side in shape[1:]):
            raise ConfigError(f"{key('channels')} has {len(channels)} levels, too many to halve {key('shape')}={shape}")
        checks.flag("gradient_checkpointing", gradient_checkpointing)
        super().__init__()

        levels_without_attention = len(channels) - 1
        self.unet = UNet2DModel(
            sample_size=shape[1],
            in_channels=shape[0],
            out_channels=shape[0],
            layers_per_block=layers,
            block_out_channels=tuple(channels),
            down_block_types=("DownBlock2D",) * levels_without_attention + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * levels_without_attention,
            norm_num_groups=8,
            attention_head_dim=8,
            num_class_embeds=classes + 1,
        )
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def forward(self, z: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """z (B, C, H, W), t (B,), label (B,) -> (B, C, H, W)."""
        return self.unet(z, t, class_labels=label, return_dict=False)[0]
