"""What a file is, from its tensors' names and its metadata, and how other programs interpret it.

ComfyUI decides by the names of empty tensors, for SDXL only (comfy/supported_models.py); A1111 and Forge follow it
(A1111's pull requests 16567 and 16569); diffusers reads a folder's scheduler_config.json, and takes any single file for
eps.
"""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ztsnr.core.errors import CheckpointError
from ztsnr.formats.ldm import PREFIXES
from ztsnr.formats.lora import FIELD_OF_SUFFIX
from ztsnr.formats.single_file import SIZES_KEY, UNET_KEY, SingleFile
from ztsnr.io.tensors import open_tensors

SDXL_MAX, COMFY_MAX, EULER_MAX, EDM_MAX = 14.6146, 4518.76, 4096.0, 80.0
PREFIX, VAE_PREFIX = PREFIXES["sdxl"]["unet"], PREFIXES["sdxl"]["vae"]
SAME_START = 0.1
"""Relative difference between two highest sigmas that no image shows."""
FAMILY_NAMES = {"sdxl": "Stable Diffusion XL", "sd15": "Stable Diffusion 1.5"}
DIFFUSERS_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


@dataclass
class Diagnosis:
    properties: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Interpretation:
    """How a program would use a model."""

    prediction: str | None
    sigma_max: float

    def __str__(self) -> str:
        return f"{self.prediction}, sigma_max {self.sigma_max:g}"


PLAIN = Interpretation("eps", SDXL_MAX)
"""What programs assume of a file without markers."""


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
    keys, metadata = set(file.shapes), file.metadata
    if any(key.endswith(tuple(FIELD_OF_SUFFIX)) and ("lora" in key or key.endswith(".alpha")) for key in keys):
        return _diagnose_lora(file)
    if "ztsnr.networks" in metadata:
        properties = {"file": "a checkpoint of ztsnr's training"} | _training_properties(metadata)
        return Diagnosis(properties, ["Write it for other programs with export."])
    if UNET_KEY in keys:
        has_vae = any(key.startswith(VAE_PREFIX) for key in keys)
        return _diagnose_model(file) if has_vae else _diagnose_unet(file, PREFIX)
    if UNET_KEY.removeprefix(PREFIX) in keys:
        return _diagnose_unet(file, "")
    if "conv_in.weight" in keys and "down_blocks.0.resnets.0.conv1.weight" in keys:
        return Diagnosis({"file": "a U-Net under diffusers' names"} | _training_properties(metadata))
    raise CheckpointError(f"{path} is not a Stable Diffusion model: it has {len(keys)} tensors, first {min(keys)}")


def diagnose_folder(path: Path) -> Diagnosis:
    """Diagnoses a diffusers folder. Raises CheckpointError."""
    config_file = path / "scheduler" / "scheduler_config.json"
    if not config_file.is_file():
        raise CheckpointError(f"{path} is not a diffusers folder: it has no scheduler/scheduler_config.json")
    scheduler = json.loads(config_file.read_text(encoding="utf-8"))
    metadata_file = path / "ztsnr.json"
    metadata = json.loads(metadata_file.read_text(encoding="utf-8")) if metadata_file.is_file() else {}

    prediction = DIFFUSERS_PREDICTIONS.get(scheduler.get("prediction_type", "epsilon"))
    spacing = scheduler.get("timestep_spacing", "leading")
    interpretation = Interpretation(prediction, _scheduler_sigma_max(scheduler))
    diagnosis = Diagnosis({"file": "a diffusers folder"} | _training_properties(metadata))
    diagnosis.properties["diffusers"] = f"{interpretation}, {spacing} timesteps"
    if interpretation.sigma_max > SDXL_MAX * 2 and spacing == "leading":
        diagnosis.notes.append(
            "Leading timesteps never visit the terminal level: set timestep_spacing to trailing in the scheduler."
        )
    diagnosis.notes += _mismatch_notes(metadata, {"diffusers": interpretation})
    return diagnosis


def _scheduler_sigma_max(scheduler: Mapping) -> float:
    if betas := scheduler.get("trained_betas"):
        last_alpha_bar = torch.tensor(betas, dtype=torch.float64).neg().add(1).prod().item()
        return math.inf if last_alpha_bar <= 0 else math.sqrt((1 - last_alpha_bar) / last_alpha_bar)
    if not scheduler.get("rescale_betas_zero_snr"):
        return SDXL_MAX
    is_exact = scheduler.get("_class_name") in ("DDIMScheduler", "DDPMScheduler")
    return math.inf if is_exact else EULER_MAX


def _diagnose_model(file: SingleFile) -> Diagnosis:
    diagnosis = Diagnosis({"file": f"{FAMILY_NAMES[file.family]}, a single file of {_precision(file)}"})
    diagnosis.properties |= _training_properties(file.metadata)

    comfyui = _comfyui(set(file.shapes), file) if file.family == "sdxl" else PLAIN
    webui = comfyui if comfyui.sigma_max in (SDXL_MAX, COMFY_MAX) else PLAIN
    diagnosis.properties |= {"ComfyUI": str(comfyui), "A1111, Forge": str(webui)}
    diagnosis.properties["diffusers"] = f"{PLAIN}, unless from_single_file is given a scheduler"

    diagnosis.notes += _mismatch_notes(file.metadata, {"ComfyUI": comfyui, "A1111 and Forge": webui})
    if comfyui.prediction == "v" and comfyui.sigma_max == SDXL_MAX:
        diagnosis.notes.append(
            "It has v_pred and not ztsnr. If it was trained with zero terminal SNR, add an empty tensor named ztsnr."
        )
    if file.metadata.get("modelspec.prediction_type") == "v" and comfyui.prediction == "eps":
        diagnosis.notes.append("ModelSpec says v, which no program reads: add an empty tensor named v_pred.")
    return diagnosis


def _diagnose_unet(file: SingleFile, prefix: str) -> Diagnosis:
    is_sdxl = prefix + SIZES_KEY.removeprefix(PREFIX) in file.shapes
    diagnosis = Diagnosis({"file": f"a U-Net of {'SDXL' if is_sdxl else '1.5'}, {_precision(file)}"})
    diagnosis.properties |= _training_properties(file.metadata)

    # ComfyUI's loader of U-Nets keeps only the tensors under the prefix, where there is one.
    visible_keys = set() if prefix else set(file.shapes)
    comfyui = _comfyui(visible_keys, file) if is_sdxl else PLAIN
    diagnosis.properties["ComfyUI"] = str(comfyui)
    ignored_markers = {"v_pred", "ztsnr"} & set(file.shapes)
    if prefix and ignored_markers:
        diagnosis.notes.append(
            f"ComfyUI drops {' and '.join(sorted(ignored_markers))} from a U-Net whose names begin with {prefix} "
            f"Remove the prefix, or write the complete model."
        )
    diagnosis.notes += _mismatch_notes(file.metadata, {"ComfyUI": comfyui})
    return diagnosis


def _diagnose_lora(file: SingleFile) -> Diagnosis:
    keys = list(file.shapes)
    is_kohya = any(key.startswith("lora_") for key in keys)
    down_keys = [key for key in keys if key.endswith(("lora_down.weight", "lora_A.weight"))]
    ranks = sorted({file.shapes[key][0] for key in down_keys})
    has_text = any(key.startswith(("lora_te", "text_encoder")) for key in keys)
    kind = "kohya's" if is_kohya else "diffusers' (peft's)"
    diagnosis = Diagnosis(
        {
            "file": f"a LoRA under {kind} names, {len(down_keys)} layers, rank {', '.join(map(str, ranks))}",
            "updates": "U-Net and text encoders" if has_text else "U-Net",
        }
    )
    diagnosis.properties |= _training_properties(file.metadata)

    diagnosis.notes.append("A LoRA has no prediction type: every program uses that of the model it is applied to.")
    if file.metadata.get("ztsnr.target") == "v":
        diagnosis.notes.append(
            "It was trained on v: on a model of eps, ComfyUI needs our node ZTSNR V-Prediction with this file, or "
            "ModelSamplingDiscrete with v_prediction and zsnr."
        )
    if not is_kohya:
        diagnosis.notes.append("Some versions of ComfyUI do not know these names. All know format=lora_kohya.")
    return diagnosis


def _comfyui(keys: set[str], file: SingleFile) -> Interpretation:
    """How ComfyUI reads the markers among `keys`."""
    if {"edm_mean", "edm_std"} <= keys:
        return Interpretation("edm", EDM_MAX)
    if "edm_vpred.sigma_max" in keys:
        with open_tensors(file.path) as opened:
            return Interpretation("v conditioned on ln(sigma)/4", opened.get_tensor("edm_vpred.sigma_max").item())
    if "v_pred" in keys:
        return Interpretation("v", COMFY_MAX if "ztsnr" in keys else SDXL_MAX)
    return PLAIN


def _training_properties(metadata: Mapping[str, str]) -> dict[str, str]:
    """How a model of ours was trained."""
    if "ztsnr.target" not in metadata:
        return {}
    table_max, grid_max = _trained_levels(metadata)
    target = metadata["ztsnr.target"]
    properties = {"trained as": f"{target}, table up to sigma {table_max:g}, sampled from {grid_max:g}"}
    if "ztsnr.latents" in metadata:
        properties["latents"] = "normalised by channel; in ComfyUI only our node ZTSNR V-Prediction undoes it"
    return properties


def _mismatch_notes(metadata: Mapping[str, str], interpretations: Mapping[str, Interpretation]) -> list[str]:
    """Where programs use a model of ours differently from how it was trained."""
    if "ztsnr.target" not in metadata:
        return []
    notes = []
    target = metadata["ztsnr.target"]
    table_max, grid_max = _trained_levels(metadata)
    for program, used in interpretations.items():
        if used.prediction != target:
            notes.append(f"{program} uses it as {used.prediction}, but it was trained on {target}: use our nodes.")
        elif (table_max > 2 * SDXL_MAX) != (used.sigma_max > 2 * SDXL_MAX):
            notes.append(f"{program} samples from sigma {used.sigma_max:g}, but its table ends at {table_max:g}.")
    if grid_max < table_max and not math.isclose(grid_max, table_max, rel_tol=SAME_START) and grid_max < SDXL_MAX:
        notes.append(f"Sampling should start from sigma {grid_max:.4g}: levels above it were hardly trained.")
    return notes


def _trained_levels(metadata: Mapping[str, str]) -> tuple[float, float]:
    """The highest sigma of the table and that of the sampling grid."""
    return float(json.loads(metadata["ztsnr.sigmas"])[-1]), float(json.loads(metadata["ztsnr.grid"])[0])


def _precision(file: SingleFile) -> str:
    with open_tensors(file.path) as opened:
        key = next(key for key, shape in file.shapes.items() if len(shape) > 1)
        return str(opened.get_tensor(key).dtype).removeprefix("torch.")
