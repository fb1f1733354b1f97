"""LoRA files: kohya's names of tensors, which ComfyUI, A1111 and Forge read, and diffusers' (peft's).

In memory a LoRA is a dict from a module of the U-Net, by diffusers' name, to its update.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ztsnr.errors import CheckpointError
from ztsnr.files import open_tensors
from ztsnr.formats.ldm import State, ldm_names

SPELLINGS = {
    "down": ("lora_down.weight", "lora_A.weight", "lora.down.weight", "lora_A.default.weight"),
    "up": ("lora_up.weight", "lora_B.weight", "lora.up.weight", "lora_B.default.weight"),
    "alpha": ("alpha",),
    "magnitude": ("lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight"),
}
"""What stands after a module's name, in the files of several trainers."""
ENDS = {spelling: field for field, spellings in SPELLINGS.items() for spelling in spellings}
TEXT_ENCODERS = ("lora_te", "text_encoder")


@dataclass(frozen=True)
class Update:
    """weight + alpha / rank * up @ down; with a `magnitude`, of that length along the outputs (DoRA)."""

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None

    @property
    def rank(self) -> int:
        return len(self.down)


LoRA = dict[str, Update]


def to_kohya(lora: Mapping[str, Update], family: str, modules: Iterable[str]) -> State:
    """`modules`: all of the U-Net's. SDXL's are called as in its single file, 1.5's as diffusers calls them."""
    if any(update.magnitude is not None for update in lora.values()):
        raise CheckpointError(
            "a DoRA cannot be written as format=lora_kohya, whose readers disagree on its scale. Use format=lora_peft, "
            "or format=single_file, which merges it"
        )
    names, state = _kohya_names(family, modules), {}
    for module, update in lora.items():
        state[f"{names[module]}.lora_down.weight"] = update.down
        state[f"{names[module]}.lora_up.weight"] = update.up
        state[f"{names[module]}.alpha"] = torch.tensor(float(update.alpha))
    return state


def to_peft(lora: Mapping[str, Update]) -> State:
    """Readers take alpha for the rank where a file's metadata do not say it, so the scale goes into lora_B."""
    state = {}
    for module, update in lora.items():
        state[f"unet.{module}.lora_A.weight"] = update.down
        state[f"unet.{module}.lora_B.weight"] = update.up * (update.alpha / update.rank)
        if update.magnitude is not None:
            state[f"unet.{module}.lora_magnitude_vector"] = update.magnitude
    return state


def read_file(path: Path, modules: Iterable[str], source: str) -> LoRA:
    """`read` of a .safetensors file, which `source` names in messages."""
    with open_tensors(path) as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is not iterable)
    return read(state, modules, source)


def read(state: Mapping[str, Tensor], modules: Iterable[str], source: str, alpha: float | None = None) -> LoRA:
    """A LoRA from the tensors of any of the above, kohya's sd-scripts', OneTrainer's or SimpleTuner's among them.

    `alpha` is of those modules that have none in the file; null takes the rank. Raises CheckpointError for a tensor
    that belongs to no module.
    """
    names = {spelt: module for module, spellings in _spellings(modules).items() for spelt in spellings}
    fields: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        spelt, end = _split(key)
        if spelt not in names or end is None:
            what = "updates a text encoder" if key.startswith(TEXT_ENCODERS) else "does not fit this U-Net"
            raise CheckpointError(f"{source} {what}: {key}")
        fields.setdefault(names[spelt], {})[ENDS[end]] = value
    return {module: _update(found, module, source, alpha) for module, found in fields.items()}


def _update(found: dict[str, Tensor], module: str, source: str, alpha: float | None) -> Update:
    if not {"down", "up"} <= found.keys():
        raise CheckpointError(f"{source} lacks half of the update of {module}")
    alpha = float(found.get("alpha", len(found["down"]) if alpha is None else alpha))
    return Update(found["down"], found["up"], alpha, found.get("magnitude"))


def _split(key: str) -> tuple[str, str | None]:
    end = next((end for end in sorted(ENDS, key=len, reverse=True) if key.endswith(f".{end}")), None)
    return (key.removesuffix(f".{end}"), end) if end else (key, None)


def _kohya_names(family: str, modules: Iterable[str]) -> dict[str, str]:
    names = _original(modules) if family == "sdxl" else {module: module for module in modules}
    return {module: "lora_unet_" + name.replace(".", "_") for module, name in names.items()}


def _spellings(modules: Iterable[str]) -> dict[str, tuple[str, ...]]:
    original = _original(modules)
    return {
        module: (
            "lora_unet_" + name.replace(".", "_"),
            "lora_unet_" + module.replace(".", "_"),
            f"unet.{module}",
            f"base_model.model.{module}",
            f"diffusion_model.{name}",
        )
        for module, name in original.items()
    }


def _original(modules: Iterable[str]) -> dict[str, str]:
    """A module's name in a single file."""
    names = ldm_names("unet", [f"{module}." for module in modules])
    return {module.removesuffix("."): name.removesuffix(".") for module, name in names.items()}
