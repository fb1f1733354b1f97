"""Where a pretrained model comes from: a diffusers folder, a name on the hub, or a single file. Never a pickle."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ztsnr.core.errors import CheckpointError
from ztsnr.formats.ldm import from_ldm
from ztsnr.formats.single_file import SingleFile
from ztsnr.io.tensors import open_tensors
from ztsnr.models.architectures import ARCHITECTURES

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
CLIP = "openai/clip-vit-large-patch14"
"""Where a single file's tokenizer is, unless folders named tokenizer and tokenizer_2 stand beside the file."""

TEXT_MODEL = "text_model."


class Source:
    def has(self, part: str) -> bool:
        raise NotImplementedError

    def config(self, part: str) -> dict:
        raise NotImplementedError

    def network(self, part: str) -> nn.Module:
        """The part in float32. Raises CheckpointError where a tensor is missing, left over, or of another shape."""
        raise NotImplementedError

    def tensors(self, part: str) -> Iterator[tuple[str, Tensor]]:
        """As stored, by diffusers' names, in their order."""
        raise NotImplementedError

    def tokenizer(self, part: str):
        raise NotImplementedError


def find_source(pretrained: str) -> Source:
    """Raises CheckpointError."""
    place = Path(str(pretrained))
    if place.suffix.lower() in PICKLES:
        raise CheckpointError(
            f"model.pretrained={pretrained} is a pickle, which can run anything when it is read. "
            f"Use the same weights as .safetensors."
        )
    if place.suffix.lower() == ".safetensors":
        return OriginalFile(place)
    if place.is_dir():
        return (PartFolder if (place / "config.json").is_file() else DiffusersFolder)(str(pretrained))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(pretrained)):
        return HubModel(str(pretrained))
    raise CheckpointError(
        f"model.pretrained={pretrained} is not there. It must be a diffusers folder, a .safetensors file, or a name "
        f"on the hub such as stabilityai/stable-diffusion-xl-base-1.0"
    )


class DiffusersFolder(Source):
    def __init__(self, name: str):
        self.name = name

    def folder(self, part: str) -> Path:
        """The part's folder. Raises CheckpointError."""
        if not self.has(part):
            what = "is no whole model" if (Path(self.name) / "model_index.json").is_file() else "is no diffusers folder"
            raise CheckpointError(f"model.pretrained={self.name} {what}: {part} is missing in it")
        return Path(self.name) / part

    def has(self, part):
        return (Path(self.name) / part).is_dir()

    def config(self, part):
        return json.loads((self.folder(part) / "config.json").read_text(encoding="utf-8"))

    def network(self, part):
        folder, cls = self.folder(part), part_class(part)
        variant = {} if _weights(folder, half=False) else {"variant": "fp16"}
        kind = "dtype" if cls.__module__.startswith("transformers") else "torch_dtype"
        settings = {"use_safetensors": True, "output_loading_info": True, kind: torch.float32, **variant}
        try:
            network, told = cls.from_pretrained(folder, **settings)
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{folder} cannot be loaded as {cls.__name__}: {error}") from error
        for what in ("missing", "unexpected", "mismatched"):
            if keys := sorted(str(key) for key in told[f"{what}_keys"]):
                raise CheckpointError(
                    f"{folder} does not fit {cls.__name__}: {len(keys)} {what} tensors, first {keys[0]}"
                )
        return network

    def tensors(self, part):
        folder, where = self.folder(part), {}
        for file in _weights(folder, half=False) or _weights(folder, half=True):
            with open_tensors(file) as opened:
                where |= dict.fromkeys(opened.keys(), file)
        if not where:
            raise CheckpointError(f"{folder} holds no .safetensors file")
        for name in sorted(where):
            with open_tensors(where[name]) as opened:
                yield name, opened.get_tensor(name)

    def tokenizer(self, part):
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(self.folder(part))


class PartFolder(DiffusersFolder):
    """Of one part alone, whatever its name, such as the unet_ema of SimpleTuner's checkpoints."""

    def folder(self, part):
        return Path(self.name)

    def has(self, part):
        return part == "unet"


class HubModel(DiffusersFolder):
    def folder(self, part):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        files = [f"{part}/{file}" for file in ("*.json", "*.txt", "model*.safetensors", "diffusion*.safetensors")]
        try:
            snapshot = snapshot_download(
                self.name, allow_patterns=["model_index.json", *files], ignore_patterns=["*.fp16.*", "*.non_ema.*"]
            )
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise CheckpointError(
                f"model.pretrained={self.name} is no folder here and cannot be had from the hub: {error}"
            ) from error
        return DiffusersFolder(snapshot).folder(part)

    def has(self, part):
        try:
            return self.folder(part).is_dir()
        except CheckpointError as error:
            if "is missing in it" in str(error):
                return False
            raise


class OriginalFile(Source):
    """Its parts' configs are what the file tells, or else the released models'."""

    def __init__(self, path: Path):
        self.file = SingleFile(path)

    def has(self, part):
        return part in ARCHITECTURES[self.file.family]

    def config(self, part):
        return self.file.architecture(part) or ARCHITECTURES[self.file.family][part]

    def network(self, part):
        network = self._empty(part)
        network.load_state_dict(self._state(network, part), assign=True)
        return cast(network, torch.float32)

    def tensors(self, part):
        yield from sorted(self._state(self._empty(part), part).items())

    def tokenizer(self, part):
        from transformers import CLIPTokenizer

        beside = self.file.path.parent / part
        pad = {"pad_token": "!"} if part == "tokenizer_2" else {}
        try:
            return CLIPTokenizer.from_pretrained(beside if beside.is_dir() else CLIP, **pad)
        except OSError as error:
            raise CheckpointError(
                f"{self.file.path} holds no tokenizer, and {CLIP} cannot be had from the hub: {error}. "
                f"Put the folders tokenizer and tokenizer_2 of a diffusers model beside the file."
            ) from error

    def _empty(self, part: str) -> nn.Module:
        """The network without weights."""
        from accelerate import init_empty_weights
        from transformers import CLIPTextConfig

        cls = part_class(part)
        with init_empty_weights(include_buffers=False):
            if part.startswith("text_encoder"):
                return cls(CLIPTextConfig(**self.config(part)))
            return cls.from_config(self.config(part))

    def _state(self, network: nn.Module, part: str) -> dict[str, Tensor]:
        names = {name.removeprefix(TEXT_MODEL): name for name in network.state_dict()}
        found = from_ldm(part, self.file.part(part), plain_state(network), str(self.file.path))
        return {names[name]: value for name, value in found.items()}


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Its parameters as another type; diffusers' own way warns of what no model here has."""
    for p in network.parameters():
        p.data = p.data.to(dtype)
    return network


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """Its tensors, a text encoder's by the names that all versions of transformers agree on."""
    return {name.removeprefix(TEXT_MODEL): value for name, value in network.state_dict().items()}


def part_class(part: str) -> type:
    """diffusers' or transformers' class of "unet", "vae", "text_encoder" or "text_encoder_2"."""
    if part == "unet":
        from diffusers import UNet2DConditionModel as Part
    elif part == "vae":
        from diffusers import AutoencoderKL as Part
    else:
        from transformers import CLIPTextModel, CLIPTextModelWithProjection
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # it would stand in the midst of ours, for each part
        Part = CLIPTextModel if part == "text_encoder" else CLIPTextModelWithProjection
    return Part


def _weights(folder: Path, *, half: bool) -> list[Path]:
    return sorted(file for file in folder.glob("*.safetensors") if (".fp16" in file.name) == half)
