"""A pretrained model in a single file, with Stable Diffusion's original tensor names."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ztsnr.core.errors import CheckpointError
from ztsnr.formats.ldm import from_ldm
from ztsnr.formats.single_file import SingleFile
from ztsnr.models.architectures import ARCHITECTURES
from ztsnr.models.parts import TEXT_MODEL, plain_state, to_dtype
from ztsnr.models.source import Source, part_class

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

CLIP = "openai/clip-vit-large-patch14"
"""Where a single file's tokenizer is, unless folders named tokenizer and tokenizer_2 are beside the file."""


class OriginalFile(Source):
    """Takes the parts' configs from its metadata, or else those of the released models."""

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
