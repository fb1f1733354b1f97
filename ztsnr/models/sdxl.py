from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ztsnr.core import checks
from ztsnr.core.errors import CheckpointError
from ztsnr.formats.lora import read_file
from ztsnr.models.pretrained import load_unet
from ztsnr.models.source import cast
from ztsnr.models.text import TextEncoders
from ztsnr.models.trainable import Adapted, Trained, layers_of, merge


class PretrainedUNet(Adapted):
    """`pretrained`: a diffusers folder, its name on the hub, or a single .safetensors file.

    `unet`: where the U-Net is, if not there: any of these, or a folder of a U-Net alone. `train`: what of the U-Net is
    trained; `train_text`: what of the text encoders, which are here only where something is.
    """

    family: str
    embedding: str | None
    """What diffusers' config says of the conditions that are added to the timestep."""

    def __init__(
        self,
        *,
        pretrained: str,
        unet: str | None,
        train: Trained,
        train_text: Trained | None,
        gradient_checkpointing: bool,
    ):
        checks.instance("model.train", train, Trained)
        checks.flag("model.gradient_checkpointing", gradient_checkpointing)
        super().__init__()
        self.unet, self.text_encoders = load_unet(unet or pretrained), None
        if self.unet.config.addition_embed_type != self.embedding:
            other = "sd15" if self.family == "sdxl" else "sdxl"
            key = f"model.unet={unet}" if unet else f"model.pretrained={pretrained}"
            raise CheckpointError(f"{key} does not fit model={self.family}. Is it {other}?")
        if train_text is not None:
            checks.instance("model.train_text", train_text, Trained)
            self.text_encoders = TextEncoders(pretrained)
        self.train_what, self.train_text = train, train_text
        self._prepare()
        self.keep_trained()
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def parts(self) -> dict[str, tuple[nn.Module, Trained]]:
        """The networks something of which is trained, by diffusers' names, and what of each."""
        encoders = self.text_encoders.parts.items() if self.text_encoders is not None else ()
        return {"unet": (self.unet, self.train_what)} | {part: (net, self.train_text) for part, net in encoders}

    def _prepare(self) -> None:
        self.layers = {part: layers_of(network) for part, (network, _) in self.parts().items()}
        starts = defaultdict(list)
        for part, (network, what) in self.parts().items():
            what.prepare(network)
            if what.start is not None:
                starts[what.start].append(part)
        for start, parts in starts.items():
            found = read_file(Path(start), {part: self.layers[part] for part in parts}, f"the LoRA {start}")
            for part in parts:
                network, what = self.parts()[part]
                what.begin_with(found[part], network)
        if self.text_encoders is not None:
            self.text_encoders.freeze_unused()

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that it was trained on."""
        return 8 * self.unet.config.sample_size

    @property
    def kind(self) -> torch.dtype:
        """Of the weights; diffusers' own property walks through all modules, a twentieth of a tiny step."""
        return self.unet.conv_in.weight.dtype

    def say(self, tokens: Tensor | None, said: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the text encoders say of tokens, or what they have said, in the type of the U-Net's weights."""
        told = said if tokens is None else self.text_encoders(tokens)
        return {name: value.to(self.kind) for name, value in told.items()}

    @torch.no_grad()
    def merged(self) -> dict[str, nn.Module]:
        """The parts something of which is trained, in float32, a LoRA merged into the weights.

        They are this network's own, which has done its work.
        """
        return {part: merge(cast(network, torch.float32)) for part, (network, _) in self.parts().items()}


class SDXL(PretrainedUNet):
    """Stable Diffusion XL's U-Net (arXiv 2307.01952)."""

    family, embedding = "sdxl", "text_time"

    def forward(self, z: Tensor, t: Tensor, time_ids: Tensor, tokens: Tensor | None = None, **said: Tensor) -> Tensor:
        """z (B, 4, h, w), t (B,), time_ids (B, 6), text (B, L, 2048), pooled (B, 1280) -> (B, 4, h, w).

        time_ids are the original size (h, w), the crop (top, left) and the target size (h, w), in pixels. In place of
        text and pooled, tokens (B, 2, windows, 77), where the text encoders are trained.
        """
        said = self.say(tokens, said)
        told = {"text_embeds": said["pooled"], "time_ids": time_ids}
        return self.unet(z.to(self.kind), t, said["text"], added_cond_kwargs=told, return_dict=False)[0].to(z.dtype)


class SD15(PretrainedUNet):
    """Stable Diffusion 1.5's U-Net (arXiv 2112.10752)."""

    family, embedding = "sd15", None

    def forward(
        self, z: Tensor, t: Tensor, time_ids: Tensor | None = None, tokens: Tensor | None = None, **said: Tensor
    ) -> Tensor:
        """z (B, 4, h, w), t (B,), text (B, L, 768), or tokens (B, 1, windows, 77) -> (B, 4, h, w).

        The sizes are not for this network.
        """
        text = self.say(tokens, said)["text"]
        return self.unet(z.to(self.kind), t, text, return_dict=False)[0].to(z.dtype)
