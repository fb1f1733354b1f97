from diffusers import UNet2DModel
from torch import Tensor, nn

from ztsnr.core import checks
from ztsnr.core.errors import ConfigError


class UNet(nn.Module):
    """diffusers' U-Net over pixels, with classes: one level per entry of `channels`, attention in the lowest."""

    def __init__(
        self, *, shape: list[int], classes: int, channels: list[int], layers: int, gradient_checkpointing: bool
    ):
        checks.integer("model.layers", layers, at_least=1)
        checks.numbers("model.channels", channels, at_least=8)
        if any(width % 8 for width in channels):
            raise ConfigError(f"model.channels must be multiples of 8, got {channels}")
        if any(side % 2 ** (len(channels) - 1) for side in shape[1:]):
            raise ConfigError(f"model.channels has {len(channels)} levels, too many to halve data.shape={shape}")
        checks.flag("model.gradient_checkpointing", gradient_checkpointing)
        super().__init__()
        plain = len(channels) - 1
        self.unet = UNet2DModel(
            sample_size=shape[1],
            in_channels=shape[0],
            out_channels=shape[0],
            layers_per_block=layers,
            block_out_channels=list(channels),
            down_block_types=["DownBlock2D"] * plain + ["AttnDownBlock2D"],
            up_block_types=["AttnUpBlock2D"] + ["UpBlock2D"] * plain,
            norm_num_groups=8,
            attention_head_dim=8,
            num_class_embeds=classes + 1,
        )
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def forward(self, z: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return self.unet(z, t, class_labels=label).sample
