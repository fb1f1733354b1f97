"""One .safetensors file with a complete model under Stable Diffusion's original names."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ztsnr.core import metadata_keys as keys
from ztsnr.core.errors import CheckpointError
from ztsnr.formats.ldm import PREFIXES, StateDict, to_ldm
from ztsnr.io.tensors import open_tensors

UNET_KEY = "model.diffusion_model.input_blocks.0.0.weight"
SIZES_KEY = "model.diffusion_model.label_emb.0.0.weight"
SDXL_CLIP_KEY = f"{PREFIXES['sdxl']['text_encoder']}embeddings.position_embedding.weight"
SD15_CLIP_KEY = f"{PREFIXES['sd15']['text_encoder']}embeddings.position_embedding.weight"


@dataclass(frozen=True)
class SingleFile:
    """Opens the file for each access and reads only the tensors of that part."""

    path: Path

    @cached_property
    def metadata(self) -> dict[str, str]:
        with open_tensors(self.path) as file:
            return file.metadata() or {}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        with open_tensors(self.path) as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118

    @cached_property
    def family(self) -> str:
        """ "sdxl" or "sd15". Raises CheckpointError."""
        if UNET_KEY not in self.shapes:
            raise CheckpointError(
                f"{self.path} is not a single-file checkpoint of Stable Diffusion: it has no {UNET_KEY}. "
                f"For a diffusers model, use the folder."
            )
        if SIZES_KEY in self.shapes and SDXL_CLIP_KEY in self.shapes:
            return "sdxl"
        if SIZES_KEY not in self.shapes and SD15_CLIP_KEY in self.shapes:
            return "sd15"
        raise CheckpointError(f"{self.path} is neither Stable Diffusion XL nor 1.5: its text encoders are different")

    def part(self, part: str) -> StateDict:
        """A part's tensors, without its prefix."""
        prefix = PREFIXES[self.family][part]
        with open_tensors(self.path) as file:
            return {key.removeprefix(prefix): file.get_tensor(key) for key in self.shapes if key.startswith(prefix)}

    def architecture(self, part: str) -> dict[str, Any] | None:
        """diffusers' or transformers' config of a part, or None. Only our own files have it in their metadata."""
        text = self.metadata.get(keys.ARCHITECTURE)
        return json.loads(text).get(part) if text else None


def join(family: str, parts: Mapping[str, StateDict]) -> StateDict:
    """Converts all parts' tensors from diffusers' names to those of a single file."""
    joined = {}
    for part, state in parts.items():
        prefix = PREFIXES[family][part]
        joined |= {prefix + name: value for name, value in to_ldm(part, state).items()}
    return joined
