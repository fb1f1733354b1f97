"""Identifies a file by its tensors' names and its metadata, and reports how other programs interpret it.

ComfyUI looks for marker tensors, for SDXL only (comfy/supported_models.py). A1111 and Forge do the same (A1111's pull
requests 16567 and 16569). diffusers reads a folder's scheduler_config.json and assumes eps for every single file.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ztsnr.core import metadata_keys as keys
from ztsnr.core.errors import CheckpointError
from ztsnr.core.schedule.table import STABLE_DIFFUSION_MAX
from ztsnr.formats.interpretation import (
    COMFYUI_MAX,
    PLAIN,
    interpret_markers,
    interpret_scheduler,
    mismatch_notes,
    training_properties,
)
from ztsnr.formats.ldm import PREFIXES
from ztsnr.formats.lora import FIELD_OF_SUFFIX
from ztsnr.formats.single_file import SIZES_KEY, UNET_KEY, SingleFile
from ztsnr.io.tensors import open_tensors

PREFIX = PREFIXES["sdxl"]["unet"]
VAE_PREFIX = PREFIXES["sdxl"]["vae"]
FAMILY_NAMES = {"sdxl": "Stable Diffusion XL", "sd15": "Stable Diffusion 1.5"}


@dataclass
class Diagnosis:
    properties: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def diagnose(path: Path) -> Diagnosis:
    """Diagnoses a .safetensors file or a diffusers folder. Raises CheckpointError."""
    return diagnose_folder(path) if path.is_dir() else diagnose_file(path)


def print_diagnosis(diagnosis: Diagnosis) -> None:
    from rich.table import Table

    from ztsnr.io.console import make_console

    console = make_console(sys.stdout, wrap=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, text in diagnosis.properties.items():
        table.add_row(f"[bold]{name}[/]", text)
    console.print(table)
    for note in diagnosis.notes:
        console.print(f"[bold yellow]note:[/] {note}")


def diagnose_file(path: Path) -> Diagnosis:
    """Diagnoses a .safetensors file. Raises CheckpointError."""
    file = SingleFile(path)
    names = set(file.shapes)
    metadata = file.metadata
    if any(_is_lora_tensor(name) for name in names):
        return _diagnose_lora(file)
    if keys.NETWORKS in metadata:
        properties = {"file": "a checkpoint of ztsnr's training"} | training_properties(metadata)
        return Diagnosis(properties, ["Write it for other programs with export."])
    if UNET_KEY in names:
        has_vae = any(name.startswith(VAE_PREFIX) for name in names)
        return _diagnose_model(file) if has_vae else _diagnose_unet(file, PREFIX)
    if UNET_KEY.removeprefix(PREFIX) in names:
        return _diagnose_unet(file, "")
    if "conv_in.weight" in names and "down_blocks.0.resnets.0.conv1.weight" in names:
        return Diagnosis({"file": "a U-Net under diffusers' names"} | training_properties(metadata))
    raise CheckpointError(f"{path} is not a Stable Diffusion model: it has {len(names)} tensors, first {min(names)}")


def _is_lora_tensor(name: str) -> bool:
    return name.endswith(tuple(FIELD_OF_SUFFIX)) and ("lora" in name or name.endswith(".alpha"))


def diagnose_folder(path: Path) -> Diagnosis:
    """Diagnoses a diffusers folder. Raises CheckpointError."""
    config_file = path / "scheduler" / "scheduler_config.json"
    if not config_file.is_file():
        raise CheckpointError(f"{path} is not a diffusers folder: it has no scheduler/scheduler_config.json")
    scheduler = json.loads(config_file.read_text(encoding="utf-8"))
    metadata_file = path / "ztsnr.json"
    metadata = json.loads(metadata_file.read_text(encoding="utf-8")) if metadata_file.is_file() else {}

    spacing = scheduler.get("timestep_spacing", "leading")
    interpretation = interpret_scheduler(scheduler)
    diagnosis = Diagnosis({"file": "a diffusers folder"} | training_properties(metadata))
    diagnosis.properties["diffusers"] = f"{interpretation}, {spacing} timesteps"
    if interpretation.sigma_max > STABLE_DIFFUSION_MAX * 2 and spacing == "leading":
        diagnosis.notes.append(
            "Leading timesteps never visit the terminal level: set timestep_spacing to trailing in the scheduler."
        )
    diagnosis.notes += mismatch_notes(metadata, {"diffusers": interpretation})
    return diagnosis


def _diagnose_model(file: SingleFile) -> Diagnosis:
    diagnosis = Diagnosis({"file": f"{FAMILY_NAMES[file.family]}, a single file of {_precision(file)}"})
    diagnosis.properties |= training_properties(file.metadata)

    comfyui = interpret_markers(set(file.shapes), file) if file.family == "sdxl" else PLAIN
    webui = comfyui if comfyui.sigma_max in (STABLE_DIFFUSION_MAX, COMFYUI_MAX) else PLAIN
    diagnosis.properties |= {"ComfyUI": str(comfyui), "A1111, Forge": str(webui)}
    diagnosis.properties["diffusers"] = f"{PLAIN}, unless from_single_file is given a scheduler"

    diagnosis.notes += mismatch_notes(file.metadata, {"ComfyUI": comfyui, "A1111 and Forge": webui})
    if comfyui.prediction == "v" and comfyui.sigma_max == STABLE_DIFFUSION_MAX:
        diagnosis.notes.append(
            "It has v_pred and not ztsnr. If it was trained with zero terminal SNR, add an empty tensor named ztsnr."
        )
    if file.metadata.get("modelspec.prediction_type") == "v" and comfyui.prediction == "eps":
        diagnosis.notes.append("ModelSpec says v, which no program reads: add an empty tensor named v_pred.")
    return diagnosis


def _diagnose_unet(file: SingleFile, prefix: str) -> Diagnosis:
    is_sdxl = prefix + SIZES_KEY.removeprefix(PREFIX) in file.shapes
    diagnosis = Diagnosis({"file": f"a U-Net of {'SDXL' if is_sdxl else '1.5'}, {_precision(file)}"})
    diagnosis.properties |= training_properties(file.metadata)

    # If the names have the prefix, ComfyUI's U-Net loader drops every tensor without it.
    visible_names = set() if prefix else set(file.shapes)
    comfyui = interpret_markers(visible_names, file) if is_sdxl else PLAIN
    diagnosis.properties["ComfyUI"] = str(comfyui)
    ignored_markers = {"v_pred", "ztsnr"} & set(file.shapes)
    if prefix and ignored_markers:
        diagnosis.notes.append(
            f"ComfyUI drops {' and '.join(sorted(ignored_markers))} from a U-Net whose names begin with {prefix} "
            f"Remove the prefix, or write the complete model."
        )
    diagnosis.notes += mismatch_notes(file.metadata, {"ComfyUI": comfyui})
    return diagnosis


def _diagnose_lora(file: SingleFile) -> Diagnosis:
    names = list(file.shapes)
    is_kohya = any(name.startswith("lora_") for name in names)
    down_names = [name for name in names if name.endswith(("lora_down.weight", "lora_A.weight"))]
    ranks = sorted({file.shapes[name][0] for name in down_names})
    has_text = any(name.startswith(("lora_te", "text_encoder")) for name in names)
    kind = "kohya's" if is_kohya else "diffusers' (peft's)"
    diagnosis = Diagnosis(
        {
            "file": f"a LoRA under {kind} names, {len(down_names)} layers, rank {', '.join(map(str, ranks))}",
            "updates": "U-Net and text encoders" if has_text else "U-Net",
        }
    )
    diagnosis.properties |= training_properties(file.metadata)

    diagnosis.notes.append("A LoRA has no prediction type: every program uses that of the model it is applied to.")
    if file.metadata.get(keys.TARGET) == "v":
        diagnosis.notes.append(
            "It was trained on v: on a model of eps, ComfyUI needs our node ZTSNR V-Prediction with this file, or "
            "ModelSamplingDiscrete with v_prediction and zsnr."
        )
    if not is_kohya:
        diagnosis.notes.append("Some versions of ComfyUI do not know these names. All know format=lora_kohya.")
    return diagnosis


def _precision(file: SingleFile) -> str:
    with open_tensors(file.path) as opened:
        name = next(name for name, shape in file.shapes.items() if len(shape) > 1)
        return str(opened.get_tensor(name).dtype).removeprefix("torch.")
