"""How other programs interpret a model, and where they differ from its training."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ztsnr.core import metadata_keys as keys
from ztsnr.core.format_names import TARGET_NAMES
from ztsnr.core.schedule.table import STABLE_DIFFUSION_MAX
from ztsnr.formats.diffusers_folder import PREDICTION_TYPES
from ztsnr.formats.single_file import SingleFile
from ztsnr.io.tensors import open_tensors

COMFYUI_MAX = 4518.76
"""Highest sigma of ComfyUI's zero-terminal table."""
EULER_MAX = 4096.0
"""Highest sigma of diffusers' samplers with a zero-terminal table, except those that support inf."""
EDM_MAX = 80.0
"""Highest sigma of ComfyUI's EDM models."""
TARGET_OF_PREDICTION = {prediction: TARGET_NAMES[target] for target, prediction in PREDICTION_TYPES.items()}
SAME_START = 0.1
"""Sampling may start this far from the table's highest sigma, relatively: images look the same."""


@dataclass(frozen=True)
class Interpretation:
    """How a program would use a model."""

    prediction: str | None
    sigma_max: float

    def __str__(self) -> str:
        return f"{self.prediction}, sigma_max {self.sigma_max:g}"


PLAIN = Interpretation("eps", STABLE_DIFFUSION_MAX)
"""What programs assume of a file without markers."""


def interpret_markers(names: set[str], file: SingleFile) -> Interpretation:
    """How ComfyUI reads the markers among the tensors' names."""
    if {"edm_mean", "edm_std"} <= names:
        return Interpretation("edm", EDM_MAX)
    if "edm_vpred.sigma_max" in names:
        with open_tensors(file.path) as opened:
            return Interpretation("v conditioned on ln(sigma)/4", opened.get_tensor("edm_vpred.sigma_max").item())
    if "v_pred" in names:
        return Interpretation("v", COMFYUI_MAX if "ztsnr" in names else STABLE_DIFFUSION_MAX)
    return PLAIN


def interpret_scheduler(scheduler: Mapping[str, Any]) -> Interpretation:
    """How diffusers reads a scheduler_config.json."""
    prediction = TARGET_OF_PREDICTION.get(scheduler.get("prediction_type", "epsilon"))
    return Interpretation(prediction, _scheduler_sigma_max(scheduler))


def _scheduler_sigma_max(scheduler: Mapping) -> float:
    if betas := scheduler.get("trained_betas"):
        last_alpha_bar = torch.tensor(betas, dtype=torch.float64).neg().add(1).prod().item()
        return math.inf if last_alpha_bar <= 0 else math.sqrt((1 - last_alpha_bar) / last_alpha_bar)
    if not scheduler.get("rescale_betas_zero_snr"):
        return STABLE_DIFFUSION_MAX
    is_exact = scheduler.get("_class_name") in ("DDIMScheduler", "DDPMScheduler")
    return math.inf if is_exact else EULER_MAX


def training_properties(metadata: Mapping[str, str]) -> dict[str, str]:
    """The rows of a diagnosis that describe the training; none for a file that is not ours."""
    if keys.TARGET not in metadata:
        return {}
    table_max, grid_max = _trained_levels(metadata)
    target = metadata[keys.TARGET]
    properties = {"trained as": f"{target}, table up to sigma {table_max:g}, sampled from {grid_max:g}"}
    if keys.LATENTS in metadata:
        properties["latents"] = "normalised by channel; in ComfyUI only our node ZTSNR V-Prediction undoes it"
    return properties


def mismatch_notes(metadata: Mapping[str, str], interpretations: Mapping[str, Interpretation]) -> list[str]:
    """A sentence for each program that would not use one of our models as it was trained."""
    if keys.TARGET not in metadata:
        return []
    notes = []
    target = metadata[keys.TARGET]
    table_max, grid_max = _trained_levels(metadata)
    for program, used in interpretations.items():
        if used.prediction != target:
            notes.append(f"{program} uses it as {used.prediction}, but it was trained on {target}: use our nodes.")
        elif (table_max > 2 * STABLE_DIFFUSION_MAX) != (used.sigma_max > 2 * STABLE_DIFFUSION_MAX):
            notes.append(f"{program} samples from sigma {used.sigma_max:g}, but its table ends at {table_max:g}.")
    if (
        grid_max < table_max
        and not math.isclose(grid_max, table_max, rel_tol=SAME_START)
        and grid_max < STABLE_DIFFUSION_MAX
    ):
        notes.append(f"Sampling should start from sigma {grid_max:.4g}: levels above it were hardly trained.")
    return notes


def _trained_levels(metadata: Mapping[str, str]) -> tuple[float, float]:
    """The highest sigma of the table, and of the sampling grid."""
    return float(json.loads(metadata[keys.SIGMAS])[-1]), float(json.loads(metadata[keys.GRID])[0])
