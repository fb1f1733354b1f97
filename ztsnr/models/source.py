"""Where a pretrained model comes from: a diffusers folder, a name on the hub, or a single file. Never a pickle."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ztsnr.core.errors import CheckpointError
from ztsnr.formats.ldm import from_ldm
from ztsnr.formats.single_file import SingleFile
from ztsnr.io.tensors import open_tensors
from ztsnr.models.architectures import ARCHITECTURES
from ztsnr.models.parts import TEXT_MODEL, part_class, plain_state, to_dtype

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
CLIP = "openai/clip-vit-large-patch14"
"""Where a single file's tokenizer is, unless folders named tokenizer and tokenizer_2 are beside the file."""


class MissingPart(CheckpointError):
    """The model has no such part."""


class Source:
    def has(self, part: str) -> bool:
        raise NotImplementedError

    def config(self, part: str) -> dict[str, Any]:
        raise NotImplementedError

    def network(self, part: str) -> nn.Module:
        """The part in float32. Raises CheckpointError where a tensor is missing, left over, or of another shape."""
        raise NotImplementedError

    def tensors(self, part: str) -> Iterator[tuple[str, Tensor]]:
        """As stored, by diffusers' names, in their order."""
        raise NotImplementedError

    def tokenizer(self, part: str) -> "CLIPTokenizer":
        """`part` is "tokenizer" or "tokenizer_2"."""
        raise NotImplementedError


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
    """A folder with only one part, whatever its name, such as the unet_ema of SimpleTuner's checkpoints."""

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


class OriginalFile(Source):
    """The configs of its parts are those in its metadata, or else the released models'."""

    def __init__(self, path: Path) -> None:
        self.file = SingleFile(path)

    def has(self, part: str) -> bool:
        return part in ARCHITECTURES[self.file.family]

    def config(self, part: str) -> dict[str, Any]:
        return self.file.architecture(part) or ARCHITECTURES[self.file.family][part]

    def network(self, part: str) -> nn.Module:
        network = self._empty(part)
        network.load_state_dict(self._state(network, part), assign=True)
        return to_dtype(network, torch.float32)

    def tensors(self, part: str) -> Iterator[tuple[str, Tensor]]:
        yield from sorted(self._state(self._empty(part), part).items())

    def tokenizer(self, part: str) -> "CLIPTokenizer":
        from transformers import CLIPTokenizer

        beside = self.file.path.parent / part
        source = str(beside) if beside.is_dir() else CLIP
        try:
            if part == "tokenizer_2":
                return CLIPTokenizer.from_pretrained(source, pad_token="!")
            return CLIPTokenizer.from_pretrained(source)
        except OSError as error:
            raise CheckpointError(
                f"{self.file.path} has no tokenizer, and {CLIP} cannot be downloaded from the hub: {error}. "
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
        state = from_ldm(part, self.file.part(part), plain_state(network), str(self.file.path))
        return {names[name]: value for name, value in state.items()}


def _weight_files(folder: Path, *, half: bool) -> list[Path]:
    return sorted(file for file in folder.glob("*.safetensors") if (".fp16" in file.name) == half)
