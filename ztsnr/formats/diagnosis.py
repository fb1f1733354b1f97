"""What a file is, from the names of its tensors and what it says of itself, and what other programs take it for.

ComfyUI decides by empty tensors' names, of SDXL alone (comfy/supported_models.py); A1111 and Forge follow it (A1111's
pull requests 16567 and 16569); diffusers reads a folder's scheduler_config.json, and takes any single file for eps.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ztsnr.core.errors import CheckpointError
from ztsnr.formats.ldm import PREFIXES
from ztsnr.formats.lora import ENDS
from ztsnr.formats.single_file import SIZES_KEY, UNET_KEY, SingleFile
from ztsnr.io.tensors import open_tensors

SDXL_MAX, COMFY_MAX, EULER_MAX, EDM_MAX = 14.6146, 4518.76, 4096.0, 80.0
PREFIX, VAE_PREFIX = PREFIXES["sdxl"]["unet"], PREFIXES["sdxl"]["vae"]
NEAR = 0.1
"""Relative difference of two highest sigmas that no picture shows."""


@dataclass
class Diagnosis:
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Taken:
    """How a program would use a model."""

    prediction: str
    sigma_max: float

    def __str__(self) -> str:
        return f"{self.prediction}, sigma_max {self.sigma_max:g}"


def examine_tensors(path: Path) -> Diagnosis:
    """Of a .safetensors file. Raises CheckpointError."""
    file = SingleFile(path)
    keys, told = set(file.shapes), file.metadata
    if any(key.endswith(tuple(ENDS)) and ("lora" in key or key.endswith(".alpha")) for key in keys):
        return _lora(file)
    if "ztsnr.networks" in told:
        return Diagnosis(
            {"file": "a checkpoint of ztsnr's training"} | _own(told), ["Write it for others with export."]
        )
    if UNET_KEY in keys:
        return _whole(file) if any(key.startswith(VAE_PREFIX) for key in keys) else _unet(file, PREFIX)
    if UNET_KEY.removeprefix(PREFIX) in keys:
        return _unet(file, "")
    if "conv_in.weight" in keys and "down_blocks.0.resnets.0.conv1.weight" in keys:
        return Diagnosis({"file": "a U-Net under diffusers' names"} | _own(told), [])
    raise CheckpointError(f"{path} is no model of Stable Diffusion: it has {len(keys)} tensors, first {min(keys)}")


def examine_folder(path: Path) -> Diagnosis:
    """Of a diffusers folder. Raises CheckpointError."""
    config = path / "scheduler" / "scheduler_config.json"
    if not config.is_file():
        raise CheckpointError(f"{path} is no diffusers folder: it lacks scheduler/scheduler_config.json")
    told = json.loads(config.read_text(encoding="utf-8"))
    own = path / "ztsnr.json"
    mine = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
    prediction = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}.get(told.get("prediction_type", "epsilon"))
    found = Diagnosis({"file": "a diffusers folder"} | _own(mine))
    taken = Taken(prediction, _folder_max(told))
    found.facts["diffusers"] = f"{taken}, {told.get('timestep_spacing', 'leading')} timesteps"
    if taken.sigma_max > SDXL_MAX * 2 and told.get("timestep_spacing", "leading") == "leading":
        found.notes.append(
            "Leading timesteps never visit the terminal level: set timestep_spacing to trailing in the scheduler."
        )
    _compare(found, mine, {"diffusers": taken})
    return found


def _folder_max(told: dict) -> float:
    rescaled, betas = told.get("rescale_betas_zero_snr"), told.get("trained_betas")
    if betas:
        last = torch.tensor(betas, dtype=torch.float64).neg().add(1).prod().item()
        return math.inf if last <= 0 else math.sqrt((1 - last) / last)
    exact = told.get("_class_name") in ("DDIMScheduler", "DDPMScheduler")
    return (math.inf if exact else EULER_MAX) if rescaled else SDXL_MAX


def _whole(file: SingleFile) -> Diagnosis:
    name = {"sdxl": "Stable Diffusion XL", "sd15": "Stable Diffusion 1.5"}[file.family]
    found = Diagnosis({"file": f"{name}, a single file of {_precision(file)}"} | _own(file.metadata))
    comfy = _comfy(set(file.shapes), file) if file.family == "sdxl" else Taken("eps", SDXL_MAX)
    webui = comfy if comfy.sigma_max in (SDXL_MAX, COMFY_MAX) else Taken("eps", SDXL_MAX)
    found.facts |= {"ComfyUI": str(comfy), "A1111, Forge": str(webui)}
    found.facts["diffusers"] = f"{Taken('eps', SDXL_MAX)}, unless from_single_file is given a scheduler"
    _compare(found, file.metadata, {"ComfyUI": comfy, "A1111 and Forge": webui})
    if comfy.prediction == "v" and comfy.sigma_max == SDXL_MAX:
        found.notes.append(
            "It has v_pred and not ztsnr. If it was trained with zero terminal SNR, add an empty tensor named ztsnr."
        )
    if file.metadata.get("modelspec.prediction_type") == "v" and comfy.prediction == "eps":
        found.notes.append("ModelSpec says v, which no program reads: add an empty tensor named v_pred.")
    return found


def _unet(file: SingleFile, prefix: str) -> Diagnosis:
    sdxl = prefix + SIZES_KEY.removeprefix(PREFIX) in file.shapes
    found = Diagnosis(
        {"file": f"a U-Net alone, of {'SDXL' if sdxl else '1.5'}, {_precision(file)}"} | _own(file.metadata)
    )
    dropped = prefix and {"v_pred", "ztsnr"} & set(file.shapes)
    comfy = _comfy(set() if prefix else set(file.shapes), file) if sdxl else Taken("eps", SDXL_MAX)
    found.facts["ComfyUI"] = str(comfy)
    if dropped:
        found.notes.append(
            f"ComfyUI drops {' and '.join(sorted(dropped))} from a U-Net whose names begin with {prefix} Take the "
            f"prefix off, or write the whole model."
        )
    _compare(found, file.metadata, {"ComfyUI": comfy})
    return found


def _lora(file: SingleFile) -> Diagnosis:
    keys = list(file.shapes)
    kind = "kohya's" if any(key.startswith("lora_") for key in keys) else "diffusers' (peft's)"
    downs = [key for key in keys if key.endswith(("lora_down.weight", "lora_A.weight"))]
    ranks = sorted({file.shapes[key][0] for key in downs})
    encoders = any(key.startswith(("lora_te", "text_encoder")) for key in keys)
    found = Diagnosis({"file": f"a LoRA under {kind} names, {len(downs)} layers, rank {', '.join(map(str, ranks))}"})
    found.facts["updates"] = "U-Net and text encoders" if encoders else "U-Net"
    found.facts |= _own(file.metadata)
    found.notes.append("A LoRA carries no prediction type: every program uses that of the model it is applied to.")
    if file.metadata.get("ztsnr.target") == "v":
        found.notes.append(
            "It was trained on v: on a model of eps, ComfyUI needs our node ZTSNR V-Prediction with this file, or "
            "ModelSamplingDiscrete with v_prediction and zsnr."
        )
    if kind != "kohya's":
        found.notes.append("Some versions of ComfyUI do not know these names. format=lora_kohya is known to all.")
    return found


def _comfy(keys: set[str], file: SingleFile) -> Taken:
    if {"edm_mean", "edm_std"} <= keys:
        return Taken("edm", EDM_MAX)
    if "edm_vpred.sigma_max" in keys:
        with open_tensors(file.path) as opened:
            return Taken("v told ln(sigma)/4", opened.get_tensor("edm_vpred.sigma_max").item())
    return Taken("v", COMFY_MAX if "ztsnr" in keys else SDXL_MAX) if "v_pred" in keys else Taken("eps", SDXL_MAX)


def _own(told: dict) -> dict[str, str]:
    if "ztsnr.target" not in told:
        return {}
    sigmas = [float(sigma) for sigma in json.loads(told["ztsnr.sigmas"])]
    grid = [float(sigma) for sigma in json.loads(told["ztsnr.grid"])]
    trained = {"trained as": f"{told['ztsnr.target']}, table up to sigma {sigmas[-1]:g}, sampled from {grid[0]:g}"}
    if "ztsnr.latents" in told:
        trained["latents"] = "normalised by channel, which ComfyUI knows by our node ZTSNR V-Prediction alone"
    return trained


def _compare(found: Diagnosis, told: dict, taken: dict[str, Taken]) -> None:
    """Notes on programs that use a model of ours otherwise than it was trained."""
    if "ztsnr.target" not in told:
        return
    target, high = told["ztsnr.target"], float(json.loads(told["ztsnr.sigmas"])[-1])
    start = float(json.loads(told["ztsnr.grid"])[0])
    for program, use in taken.items():
        if use.prediction != target:
            found.notes.append(f"Taken for {use.prediction} by {program}, but trained on {target}: use our nodes.")
        elif (high > 2 * SDXL_MAX) != (use.sigma_max > 2 * SDXL_MAX):
            found.notes.append(f"Sampled from sigma {use.sigma_max:g} by {program}, but its table ends at {high:g}.")
    if start < high and not math.isclose(start, high, rel_tol=NEAR) and start < SDXL_MAX:
        found.notes.append(f"Sampling should start from sigma {start:.4g}: levels above it were hardly trained.")


def _precision(file: SingleFile) -> str:
    with open_tensors(file.path) as opened:
        key = next(key for key, shape in file.shapes.items() if len(shape) > 1)
        return str(opened.get_tensor(key).dtype).removeprefix("torch.")
