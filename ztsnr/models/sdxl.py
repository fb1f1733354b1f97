from torch import Tensor, nn

from ztsnr import check
from ztsnr.errors import CheckpointError
from ztsnr.models.pretrained import load_unet


class SDXL(nn.Module):
    """Stable Diffusion XL's U-Net (arXiv 2307.01952), told of prompts and sizes.

    `pretrained`: a diffusers folder, or its name on the hub.
    """

    def __init__(self, *, pretrained: str, gradient_checkpointing: bool):
        check.flag("model.gradient_checkpointing", gradient_checkpointing)
        super().__init__()
        self.unet = load_unet(pretrained)
        if self.unet.config.addition_embed_type != "text_time":
            raise CheckpointError(f"model.pretrained={pretrained} is not SDXL: its U-Net is told of no sizes")
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def forward(self, z: Tensor, t: Tensor, text: Tensor, pooled: Tensor, time_ids: Tensor) -> Tensor:
        """z (B, 4, h, w), t (B,), text (B, L, 2048), pooled (B, 1280), time_ids (B, 6) -> (B, 4, h, w).

        time_ids are the original size (h, w), the crop (top, left) and the target size (h, w), in pixels.
        """
        told = {"text_embeds": pooled, "time_ids": time_ids}
        return self.unet(z, t, encoder_hidden_states=text, added_cond_kwargs=told, return_dict=False)[0]
