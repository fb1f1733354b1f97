"""One .safetensors file that holds a whole model under Stable Diffusion's original names."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ztsnr.core.errors import CheckpointError
from ztsnr.formats.ldm import PREFIXES, State, to_ldm
from ztsnr.io.tensors import open_tensors

UNET_KEY = "model.diffusion_model.input_blocks.0.0.weight"
SIZES_KEY = "model.diffusion_model.label_emb.0.0.weight"
SDXL_CLIP, SD15_CLIP = (
    f"{PREFIXES[family]['text_encoder']}embeddings.position_embedding.weight" for family in ("sdxl", "sd15")
)


@dataclass(frozen=True)
class SingleFile:
    """Tensors are read when they are asked for."""

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
                f"{self.path} is no single-file checkpoint of Stable Diffusion: it lacks {UNET_KEY}. "
                f"Of a diffusers model, give the folder."
            )
        if SIZES_KEY in self.shapes and SDXL_CLIP in self.shapes:
            return "sdxl"
        if SIZES_KEY not in self.shapes and SD15_CLIP in self.shapes:
            return "sd15"
        raise CheckpointError(f"{self.path} is neither Stable Diffusion XL nor 1.5: its text encoders are others")

    def part(self, part: str) -> State:
        """A part's tensors, without its prefix."""
        prefix = PREFIXES[self.family][part]
        with open_tensors(self.path) as file:
            return {key.removeprefix(prefix): file.get_tensor(key) for key in self.shapes if key.startswith(prefix)}

    def architecture(self, part: str) -> dict | None:
        """diffusers' and transformers' config of a part, where the file tells it, as ours do."""
        told = self.metadata.get("ztsnr.architecture")
        return json.loads(told).get(part) if told else None


def join(family: str, parts: Mapping[str, State]) -> State:
    """All parts' tensors under the names that they have in a single file; diffusers' names come in."""
    return {
        PREFIXES[family][part] + name: value
        for part, state in parts.items()
        for name, value in to_ldm(part, state).items()
    }
