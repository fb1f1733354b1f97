"""The U-Nets of Stable Diffusion XL and 1.5, and their text encoders if they are trained."""

from collections import defaultdict
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from ztsnr.core import checks
from ztsnr.core.checks import key
from ztsnr.core.errors import CheckpointError
from ztsnr.formats.lora import read_file
from ztsnr.models.partial import PartiallyTrained
from ztsnr.models.parts import to_dtype
from ztsnr.models.pretrained import load_unet
from ztsnr.models.text import TextEncoders, load_text_encoders
from ztsnr.models.trainable import TrainableSelection, layers_of, merge


class PretrainedUNet(PartiallyTrained):
    """A pretrained U-Net, and its text encoders if they are trained.

    pretrained: a diffusers folder, its name on the hub, or a single .safetensors file. unet: loads the U-Net from
    elsewhere: any of these, or a folder with only a U-Net. train: selects the U-Net's trained parameters. train_text:
    selects those of the text encoders; None does not load them. Names of submodules are part of the checkpoint format:
    never rename them.
    """

    family: ClassVar[str]
    embedding: ClassVar[str | None]
    """addition_embed_type of diffusers' config: which conditions are added to the timestep's embedding."""
    text_encoders: TextEncoders | None

    def __init__(
        self,
        *,
        pretrained: str,
        unet: str | None,
        train: TrainableSelection,
        train_text: TrainableSelection | None,
        gradient_checkpointing: bool,
    ) -> None:
        checks.instance("train", train, TrainableSelection)
        checks.flag("gradient_checkpointing", gradient_checkpointing)
        super().__init__()
        self.unet = load_unet(unet or pretrained)
        if self.unet.config["addition_embed_type"] != self.embedding:
            other = "sd15" if self.family == "sdxl" else "sdxl"
            source = f"{key('unet')}={unet}" if unet else f"{key('pretrained')}={pretrained}"
            raise CheckpointError(f"{source} does not fit model={self.family}. Is it {other}?")
        self.text_encoders = None
        if train_text is not None:
            checks.instance("train_text", train_text, TrainableSelection)
            self.text_encoders = load_text_encoders(pretrained)

        self.unet_selection = train
        self.text_selection = train_text
        self._prepare()
        self.save_trainable_only()
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def parts(self) -> dict[str, tuple[nn.Module, TrainableSelection]]:
        """The trained networks, under diffusers' names, and the selection of parameters of each."""
        parts: dict[str, tuple[nn.Module, TrainableSelection]] = {"unet": (self.unet, self.unet_selection)}
        if self.text_encoders is not None and self.text_selection is not None:
            for part, network in self.text_encoders.parts.items():
                parts[part] = (network, self.text_selection)
        return parts

    def _prepare(self) -> None:
        self.layers = {part: layers_of(network) for part, (network, _) in self.parts().items()}
        parts_of_start = defaultdict(list)
        for part, (network, selection) in self.parts().items():
            selection.prepare(network)
            if selection.start is not None:
                parts_of_start[selection.start].append(part)

        # Read each file for all its parts at the same time: this detects a tensor that belongs to none of them.
        for start, parts in parts_of_start.items():
            config_key = self.parts()[parts[0]][1].config_key
            modules = {part: self.layers[part] for part in parts}
            updates = read_file(Path(start), modules, f"{config_key}.start={start}")
            for part in parts:
                network, selection = self.parts()[part]
                selection.load_start(updates[part], network)
        if self.text_encoders is not None:
            self.text_encoders.freeze_unused()

    @property
    def image_size(self) -> int:
        """Side in pixels of the images in pretraining."""
        return 8 * self.unet.config["sample_size"]

    @property
    def weight_dtype(self) -> torch.dtype:
        """The U-Net's dtype; diffusers' own property visits all modules, which takes 5 % of a tiny step."""
        return self.unet.conv_in.weight.dtype

    def text_conditions(self, tokens: Tensor | None, embeddings: dict[str, Tensor]) -> dict[str, Tensor]:
        """The embeddings of `tokens`, or `embeddings` if `tokens` is None, in the U-Net's dtype."""
        if tokens is not None:
            if self.text_encoders is None:
                raise ValueError("tokens are for a network whose text encoders are trained")
            embeddings = self.text_encoders(tokens)
        return {name: value.to(self.weight_dtype) for name, value in embeddings.items()}

    @torch.no_grad()
    def merged(self) -> dict[str, nn.Module]:
        """The trained parts in float32, with a LoRA merged into the weights.

        Changes this network, which can be neither trained nor sampled afterwards.
        """
        return {part: merge(to_dtype(network, torch.float32)) for part, (network, _) in self.parts().items()}


class SDXL(PretrainedUNet):
    """Stable Diffusion XL's U-Net (arXiv 2307.01952)."""

    family, embedding = "sdxl", "text_time"

    def forward(
        self, z: Tensor, t: Tensor, time_ids: Tensor, tokens: Tensor | None = None, **embeddings: Tensor
    ) -> Tensor:
        """z (B, 4, h, w), t (B,), time_ids (B, 6), text (B, L, 2048), pooled (B, 1280) -> (B, 4, h, w).

        time_ids are the original size (h, w), the crop (top, left) and the target size (h, w), in pixels. tokens
        (B, 2, windows, 77) replace text and pooled if the text encoders are trained.
        """
        text = self.text_conditions(tokens, embeddings)
        added = {"text_embeds": text["pooled"], "time_ids": time_ids}
        z_in = z.to(self.weight_dtype)
        return self.unet(z_in, t, text["text"], added_cond_kwargs=added, return_dict=False)[0].to(z.dtype)


class SD15(PretrainedUNet):
    """Stable Diffusion 1.5's U-Net (arXiv 2112.10752)."""

    family, embedding = "sd15", None

    def forward(
        self, z: Tensor, t: Tensor, time_ids: Tensor | None = None, tokens: Tensor | None = None, **embeddings: Tensor
    ) -> Tensor:
        """z (B, 4, h, w), t (B,), text (B, L, 768), or tokens (B, 1, windows, 77) -> (B, 4, h, w).

        time_ids are ignored: this network has no condition on sizes.
        """
        text = self.text_conditions(tokens, embeddings)["text"]
        return self.unet(z.to(self.weight_dtype), t, text, return_dict=False)[0].to(z.dtype)
