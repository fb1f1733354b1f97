import torch
from torch import Tensor, nn

from ztsnr import check
from ztsnr.errors import CheckpointError
from ztsnr.models.pretrained import load_unet
from ztsnr.models.trained import Adapted, LoRA, Trained


class PretrainedUNet(Adapted):
    """`pretrained`: a diffusers folder, its name on the hub, or a single .safetensors file. `train`: what of it is."""

    family: str
    embedding: str | None
    """What diffusers' config says of the conditions that are added to the timestep."""

    def __init__(self, *, pretrained: str, train: Trained, gradient_checkpointing: bool):
        check.instance("model.train", train, Trained)
        check.flag("model.gradient_checkpointing", gradient_checkpointing)
        super().__init__()
        self.unet = load_unet(pretrained)
        if self.unet.config.addition_embed_type != self.embedding:
            other = "sd15" if self.family == "sdxl" else "sdxl"
            raise CheckpointError(f"model.pretrained={pretrained} does not fit model={self.family}. Is it {other}?")
        self.layers = [name for name, part in self.unet.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
        self.train_what = train
        train.prepare(self.unet)
        self.keep_trained()
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    @property
    def kind(self) -> torch.dtype:
        """Of the weights; diffusers' own property walks through all modules, a twentieth of a tiny step."""
        return self.unet.conv_in.weight.dtype

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The U-Net in float32, its LoRA merged into its weights. It is this network's own, which has done its work."""
        self.unet.float()
        if isinstance(self.train_what, LoRA):
            self.unet.fuse_lora()
            self.unet.unload_lora()
        return self.unet


class SDXL(PretrainedUNet):
    """Stable Diffusion XL's U-Net (arXiv 2307.01952)."""

    family, embedding = "sdxl", "text_time"

    def forward(self, z: Tensor, t: Tensor, text: Tensor, pooled: Tensor, time_ids: Tensor) -> Tensor:
        """z (B, 4, h, w), t (B,), text (B, L, 2048), pooled (B, 1280), time_ids (B, 6) -> (B, 4, h, w).

        time_ids are the original size (h, w), the crop (top, left) and the target size (h, w), in pixels.
        """
        kind = self.kind
        told = {"text_embeds": pooled.to(kind), "time_ids": time_ids}
        return self.unet(z.to(kind), t, text.to(kind), added_cond_kwargs=told, return_dict=False)[0].to(z.dtype)


class SD15(PretrainedUNet):
    """Stable Diffusion 1.5's U-Net (arXiv 2112.10752)."""

    family, embedding = "sd15", None

    def forward(self, z: Tensor, t: Tensor, text: Tensor, time_ids: Tensor | None = None) -> Tensor:
        """z (B, 4, h, w), t (B,), text (B, L, 768) -> (B, 4, h, w). The sizes are not for this network."""
        kind = self.kind
        return self.unet(z.to(kind), t, text.to(kind), return_dict=False)[0].to(z.dtype)
