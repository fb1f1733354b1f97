"""LoRA files: kohya's names of tensors, which ComfyUI, A1111 and Forge read, and diffusers' (peft's)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ztsnr.core.errors import CheckpointError
from ztsnr.formats.ldm import State, ldm_names
from ztsnr.io.tensors import open_tensors

SPELLINGS = {
    "down": ("lora_down.weight", "lora_A.weight", "lora.down.weight", "lora_A.default.weight"),
    "up": ("lora_up.weight", "lora_B.weight", "lora.up.weight", "lora_B.default.weight"),
    "alpha": ("alpha",),
    "magnitude": ("lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight"),
}
"""What stands after a module's name, in the files of several trainers."""
FIELD_OF_SUFFIX = {spelling: field for field, spellings in SPELLINGS.items() for spelling in spellings}
KOHYA = {
    "sdxl": {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
    "sd15": {"unet": "lora_unet_", "text_encoder": "lora_te_"},
}
"""What kohya's names of a part's modules begin with, by family."""


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


LoRA = dict[str, dict[str, Update]]
"""Part -> module, by the network's own name -> update."""
Modules = Mapping[str, Iterable[str]]
"""Part -> all modules that its updates can be of."""


def to_kohya(lora: LoRA, family: str, modules: Modules) -> State:
    """The modules of SDXL's U-Net are called as in its single file, all others as diffusers calls them."""
    if any(update.magnitude is not None for updates in lora.values() for update in updates.values()):
        raise CheckpointError(
            "a DoRA cannot be written as format=lora_kohya, whose readers disagree on its scale. Use format=lora_peft, "
            "or format=single_file, which merges it"
        )
    state = {}
    for part, updates in lora.items():
        names = _original(modules[part]) if (part, family) == ("unet", "sdxl") else _diffusers(part, modules[part])
        for module, update in updates.items():
            name = KOHYA[family][part] + names[module].replace(".", "_")
            state[f"{name}.lora_down.weight"] = update.down
            state[f"{name}.lora_up.weight"] = update.up
            state[f"{name}.alpha"] = torch.tensor(float(update.alpha))
    return state


def to_peft(lora: LoRA) -> State:
    """Readers take alpha for the rank where a file's metadata do not say it, so the scale goes into lora_B."""
    state = {}
    for part, updates in lora.items():
        names = _diffusers(part, updates)
        for module, update in updates.items():
            name = f"{part}.{names[module]}"
            state[f"{name}.lora_A.weight"] = update.down
            state[f"{name}.lora_B.weight"] = update.up * (update.alpha / update.rank)
            if update.magnitude is not None:
                state[f"{name}.lora_magnitude_vector"] = update.magnitude
    return state


def read_file(path: Path, modules: Modules, source: str) -> LoRA:
    """`read` of a .safetensors file, which `source` names in messages."""
    with open_tensors(path) as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is not iterable)
    return read(state, modules, source)


def read(state: Mapping[str, Tensor], modules: Modules, source: str) -> LoRA:
    """A LoRA from the tensors of any of the above, kohya's sd-scripts', OneTrainer's or SimpleTuner's among them.

    Raises CheckpointError for a tensor that belongs to no module.
    """
    names = {
        spelt: (part, module)
        for part, known in modules.items()
        for module, spellings in _spellings(part, known).items()
        for spelt in spellings
    }
    fields: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, value in state.items():
        spelt, end = _split(key)
        if spelt not in names or end is None:
            raise CheckpointError(f"{source} {_what_is_wrong(key, modules)}: {key}")
        fields.setdefault(names[spelt], {})[FIELD_OF_SUFFIX[end]] = value
    found: LoRA = {part: {} for part in modules}
    for (part, module), entries in fields.items():
        found[part][module] = _update(entries, module, source)
    return found


def _what_is_wrong(key: str, modules: Modules) -> str:
    text = key.startswith(("lora_te", "text_encoder"))
    if text and "text_encoder" not in modules:
        return "updates a text encoder too, so take model/train_text=lora and name the file as model.train_text.start"
    if not text and "unet" not in modules:
        return "updates the U-Net too, so take model/train=lora and name the file as model.train.start"
    return f"does not fit this {'text encoder' if text else 'U-Net'}"


def _update(found: dict[str, Tensor], module: str, source: str) -> Update:
    if not {"down", "up"} <= found.keys():
        raise CheckpointError(f"{source} lacks half of the update of {module}")
    return Update(found["down"], found["up"], float(found.get("alpha", len(found["down"]))), found.get("magnitude"))


def _split(key: str) -> tuple[str, str | None]:
    end = next((end for end in sorted(FIELD_OF_SUFFIX, key=len, reverse=True) if key.endswith(f".{end}")), None)
    return (key.removesuffix(f".{end}"), end) if end else (key, None)


def _spellings(part: str, modules: Iterable[str]) -> dict[str, set[str]]:
    known = _diffusers(part, modules)
    spelt = {module: {f"{part}.{name}", f"{part}.{module}"} for module, name in known.items()}
    for starts in KOHYA.values():
        for module, name in known.items() if part in starts else ():
            spelt[module].add(starts[part] + name.replace(".", "_"))
    for module, name in _original(modules).items() if part == "unet" else ():
        spelt[module] |= {
            f"lora_unet_{name.replace('.', '_')}",
            f"base_model.model.{module}",
            f"diffusion_model.{name}",
        }
    return spelt


def _original(modules: Iterable[str]) -> dict[str, str]:
    """A module of the U-Net -> its name in a single file."""
    names = ldm_names("unet", [f"{module}." for module in modules])
    return {module.removesuffix("."): name.removesuffix(".") for module, name in names.items()}


def _diffusers(part: str, modules: Iterable[str]) -> dict[str, str]:
    """A module -> its name in files, which have a text encoder's within text_model, as not all transformers do."""
    within = "" if part == "unet" else "text_model."
    return {m: m if m.startswith((within, "text_projection")) else within + m for m in modules}
