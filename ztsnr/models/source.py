"""The interface of a pretrained model, and diffusers folders, local or on the hub."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ztsnr.core.errors import CheckpointError
from ztsnr.io.tensors import open_tensors
from ztsnr.models.parts import TEXT_MODEL

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import CLIPTokenizer


class MissingPart(CheckpointError):
    """The model has no such part."""


class Source:
    """A pretrained model. Its parts are "unet", "vae", "text_encoder" and "text_encoder_2"."""

    def has(self, part: str) -> bool:
        raise NotImplementedError

    def config(self, part: str) -> dict[str, Any]:
        raise NotImplementedError

    def network(self, part: str) -> nn.Module:
        """The part in float32. Raises CheckpointError for a missing, unexpected or misshapen tensor."""
        raise NotImplementedError

    def tensors(self, part: str) -> Iterator[tuple[str, Tensor]]:
        """The tensors as stored, sorted by diffusers' names."""
        raise NotImplementedError

    def tokenizer(self, part: str) -> "CLIPTokenizer":
        """`part` is "tokenizer" or "tokenizer_2"."""
        raise NotImplementedError

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """The parts that encode prompts: SDXL's two, or Stable Diffusion 1.5's one."""
        return ("text_encoder", "text_encoder_2") if self.has("text_encoder_2") else ("text_encoder",)

    def vae(self) -> "AutoencoderKL":
        """The VAE in float32, since SDXL's overflows in float16; in eval mode, frozen."""
        vae = cast("AutoencoderKL", self.network("vae"))
        return vae.requires_grad_(False).eval()

    def fingerprint(self, part: str) -> str:
        """A hash of the weights of "vae", "text_encoder", ..., and of the scale of a VAE's latents: 32 hex digits."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr(self.config(part).get("scaling_factor")).encode())
        for name, tensor in self.tensors(part):
            digest.update(f"{name.removeprefix(TEXT_MODEL)} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


class DiffusersFolder(Source):
    def __init__(self, name: str) -> None:
        self.name = name

    def folder(self, part: str) -> Path:
        """The part's folder. Raises MissingPart."""
        if not self.has(part):
            is_model = (Path(self.name) / "model_index.json").is_file()
            problem = "is incomplete" if is_model else "is not a diffusers folder"
            raise MissingPart(f"model.pretrained={self.name} {problem}: it has no {part} folder")
        return Path(self.name) / part

    def has(self, part: str) -> bool:
        return (Path(self.name) / part).is_dir()

    def config(self, part: str) -> dict[str, Any]:
        return json.loads((self.folder(part) / "config.json").read_text(encoding="utf-8"))

    def network(self, part: str) -> nn.Module:
        folder = self.folder(part)
        cls = part_class(part)
        settings: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True}
        settings["dtype" if part.startswith("text_encoder") else "torch_dtype"] = torch.float32
        if not _weight_files(folder, half=False):
            settings["variant"] = "fp16"
        try:
            network, loading_info = cls.from_pretrained(folder, **settings)
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{folder} cannot be loaded as {cls.__name__}: {error}") from error

        for problem in ("missing", "unexpected", "mismatched"):
            names = sorted(str(name) for name in loading_info[f"{problem}_keys"])
            if names:
                raise CheckpointError(
                    f"{folder} does not fit {cls.__name__}: {len(names)} {problem} tensors, first {names[0]}"
                )
        return network

    def tensors(self, part: str) -> Iterator[tuple[str, Tensor]]:
        folder = self.folder(part)
        file_of: dict[str, Path] = {}
        for file in _weight_files(folder, half=False) or _weight_files(folder, half=True):
            with open_tensors(file) as opened:
                file_of |= dict.fromkeys(opened.keys(), file)
        if not file_of:
            raise CheckpointError(f"{folder} has no .safetensors file")
        for name in sorted(file_of):
            with open_tensors(file_of[name]) as opened:
                yield name, opened.get_tensor(name)

    def tokenizer(self, part: str) -> "CLIPTokenizer":
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(self.folder(part))


class PartFolder(DiffusersFolder):
    """A folder with one part under any name, such as unet_ema of SimpleTuner's checkpoints."""

    def folder(self, part: str) -> Path:
        return Path(self.name)

    def has(self, part: str) -> bool:
        return part == "unet"


class HubModel(DiffusersFolder):
    def folder(self, part: str) -> Path:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        files = [f"{part}/{file}" for file in ("*.json", "*.txt", "model*.safetensors", "diffusion*.safetensors")]
        try:
            snapshot = snapshot_download(
                self.name, allow_patterns=["model_index.json", *files], ignore_patterns=["*.fp16.*", "*.non_ema.*"]
            )
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise CheckpointError(
                f"model.pretrained={self.name} is not a local folder and cannot be downloaded from the hub: {error}"
            ) from error
        return DiffusersFolder(snapshot).folder(part)

    def has(self, part: str) -> bool:
        try:
            return self.folder(part).is_dir()
        except MissingPart:
            return False


def _weight_files(folder: Path, *, half: bool) -> list[Path]:
    return sorted(file for file in folder.glob("*.safetensors") if (".fp16" in file.name) == half)


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
