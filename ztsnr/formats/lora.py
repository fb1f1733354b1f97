"""LoRA files under kohya's names, which ComfyUI, A1111 and Forge read, and under diffusers' (peft's)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ztsnr.core.errors import CheckpointError
from ztsnr.formats.ldm import StateDict, ldm_names
from ztsnr.io.tensors import open_tensors

LORA_SUFFIXES = {
    "down": ("lora_down.weight", "lora_A.weight", "lora.down.weight", "lora_A.default.weight"),
    "up": ("lora_up.weight", "lora_B.weight", "lora.up.weight", "lora_B.default.weight"),
    "alpha": ("alpha",),
    "magnitude": ("lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight"),
}
"""Field of an Update -> the suffixes that trainers append to a module's name."""
FIELD_OF_SUFFIX = {suffix: field for field, suffixes in LORA_SUFFIXES.items() for suffix in suffixes}
LONGEST_FIRST = sorted(FIELD_OF_SUFFIX, key=len, reverse=True)
KOHYA_PREFIXES = {
    "sdxl": {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
    "sd15": {"unet": "lora_unet_", "text_encoder": "lora_te_"},
}
"""Family -> part -> prefix of kohya's module names."""


@dataclass(frozen=True)
class Update:
    """The new weight is weight + alpha / rank * up @ down.

    DoRA has a `magnitude` too, the norm of the new weight for each output.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None

    @property
    def rank(self) -> int:
        return len(self.down)


LoRAUpdates = dict[str, dict[str, Update]]
"""Part -> module, under the network's own name -> update."""
Modules = Mapping[str, Iterable[str]]
"""Part -> all modules that can be updated."""


def to_kohya(updates: LoRAUpdates, family: str, modules: Modules) -> StateDict:
    """SDXL's U-Net modules get the names of its single file, all others those of diffusers."""
    state = {}
    for part, updates_of_part in updates.items():
        is_sdxl_unet = part == "unet" and family == "sdxl"
        names = _original_names(modules[part]) if is_sdxl_unet else _diffusers_names(part, modules[part])
        for module, update in updates_of_part.items():
            if update.magnitude is not None:
                raise CheckpointError(
                    "a DoRA cannot be written as format=lora_kohya, whose readers disagree on its scale. "
                    "Use format=lora_peft, or format=single_file, which merges it"
                )
            name = KOHYA_PREFIXES[family][part] + names[module].replace(".", "_")
            state[f"{name}.lora_down.weight"] = update.down
            state[f"{name}.lora_up.weight"] = update.up
            state[f"{name}.alpha"] = torch.tensor(float(update.alpha))
    return state


def to_peft(updates: LoRAUpdates) -> StateDict:
    """Multiplies alpha / rank into lora_B, because readers assume alpha = rank if the metadata has no alpha."""
    state = {}
    for part, updates_of_part in updates.items():
        names = _diffusers_names(part, updates_of_part)
        for module, update in updates_of_part.items():
            name = f"{part}.{names[module]}"
            state[f"{name}.lora_A.weight"] = update.down
            state[f"{name}.lora_B.weight"] = update.up * (update.alpha / update.rank)
            if update.magnitude is not None:
                state[f"{name}.lora_magnitude_vector"] = update.magnitude
    return state


def read_file(path: Path, modules: Modules, source: str) -> LoRAUpdates:
    """`read` for a .safetensors file; messages call it `source`. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{source} is not a file")
    with open_tensors(path) as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is not iterable)
    return read(state, modules, source)


def read(state: Mapping[str, Tensor], modules: Modules, source: str) -> LoRAUpdates:
    """Parses a LoRA under the names of diffusers, kohya's sd-scripts, OneTrainer or SimpleTuner.

    Raises CheckpointError for a tensor that belongs to no module, and for a missing half of an update.
    """
    module_of_name = {}
    for part, modules_of_part in modules.items():
        for module, names in _all_names(part, modules_of_part).items():
            module_of_name |= dict.fromkeys(names, (part, module))

    fields: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, value in state.items():
        name, suffix = _split(key)
        if suffix is None or name not in module_of_name:
            raise CheckpointError(f"{source} {_describe_mismatch(key, modules)}: {key}")
        fields.setdefault(module_of_name[name], {})[FIELD_OF_SUFFIX[suffix]] = value

    updates: LoRAUpdates = {part: {} for part in modules}
    for (part, module), tensors in fields.items():
        updates[part][module] = _make_update(tensors, module, source)
    return updates


def _describe_mismatch(key: str, modules: Modules) -> str:
    of_text = key.startswith(("lora_te", "text_encoder"))
    if of_text and "text_encoder" not in modules:
        return "updates a text encoder too, so use model/train_text=lora and name the file as model.train_text.start"
    if not of_text and "unet" not in modules:
        return "updates the U-Net too, so use model/train=lora and name the file as model.train.start"
    return f"does not fit this {'text encoder' if of_text else 'U-Net'}"


def _make_update(tensors: dict[str, Tensor], module: str, source: str) -> Update:
    if "down" not in tensors or "up" not in tensors:
        raise CheckpointError(f"{source} lacks half of the update of {module}")
    down = tensors["down"]
    alpha = float(tensors.get("alpha", len(down)))
    return Update(down, tensors["up"], alpha, tensors.get("magnitude"))


def _split(key: str) -> tuple[str, str | None]:
    """Splits a tensor's key into the module's name and the suffix, which is None if it is unknown."""
    for suffix in LONGEST_FIRST:
        if key.endswith(f".{suffix}"):
            return key.removesuffix(f".{suffix}"), suffix
    return key, None


def _all_names(part: str, modules: Iterable[str]) -> dict[str, set[str]]:
    """Module -> the names that trainers use for it."""
    all_names = {}
    for module, name in _diffusers_names(part, modules).items():
        all_names[module] = {f"{part}.{name}", f"{part}.{module}"}
        for prefixes in KOHYA_PREFIXES.values():
            if part in prefixes:
                all_names[module].add(prefixes[part] + name.replace(".", "_"))
    if part == "unet":
        for module, name in _original_names(modules).items():
            all_names[module] |= {
                f"lora_unet_{name.replace('.', '_')}",
                f"base_model.model.{module}",
                f"diffusion_model.{name}",
            }
    return all_names


def _original_names(modules: Iterable[str]) -> dict[str, str]:
    """U-Net module -> its name in a single file."""
    names = ldm_names("unet", [f"{module}." for module in modules])
    return {module.removesuffix("."): name.removesuffix(".") for module, name in names.items()}


def _diffusers_names(part: str, modules: Iterable[str]) -> dict[str, str]:
    """Module -> its name in files, which put a text encoder inside text_model, as not every transformers does."""
    prefix = "" if part == "unet" else "text_model."
    names = {}
    for module in modules:
        is_complete = module.startswith((prefix, "text_projection"))
        names[module] = module if is_complete else prefix + module
    return names
