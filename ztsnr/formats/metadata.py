"""The metadata of an exported file: ModelSpec's keys, which several programs read, and our own."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from ztsnr.core import metadata_keys as keys
from ztsnr.core.format_names import encode_timesteps, target_name
from ztsnr.core.objective import Objective
from ztsnr.core.target import EDM, Eps, V
from ztsnr.formats.ldm import StateDict

EXPORT_FORMAT = "1"
MODELSPEC_ARCHITECTURES = {"sdxl": "stable-diffusion-xl-v1-base", "sd15": "stable-diffusion-v1"}
MODELSPEC_RESOLUTIONS = {"sdxl": "1024x1024", "sd15": "512x512"}
MODELSPEC_PREDICTIONS = {V: "v", Eps: "epsilon"}
"""ModelSpec defines only these two."""
ZERO_TERMINAL = 1000.0
"""A table that ends above this sigma counts as zero-terminal; Stable Diffusion's own ends at 14.6."""


def export_metadata(
    objective: Objective, config: Mapping[str, Any], steps: int, family: str, kind: str = ""
) -> dict[str, str]:
    """The metadata of an exported file.

    config: the run's resolved config, encoded for a file. steps: of the sampling grid. kind: "/lora" for a LoRA.
    """
    target = objective.target
    schedule = objective.schedule
    metadata = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": MODELSPEC_ARCHITECTURES[family] + kind,
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": f"ztsnr {target_name(target)}",
        "modelspec.resolution": MODELSPEC_RESOLUTIONS[family],
        keys.FORMAT: EXPORT_FORMAT,
        keys.CONFIG: json.dumps(config),
        keys.TARGET: target_name(target),
        keys.GRID: _encode_levels(schedule.grid.sigmas(steps)),
        keys.SIGMAS: _encode_levels(schedule.table.sigmas),
        keys.TIMESTEPS: json.dumps(encode_timesteps(schedule.timesteps)),
    }
    if isinstance(target, EDM):
        metadata[keys.SIGMA_DATA] = str(target.sigma_data)
    if prediction := MODELSPEC_PREDICTIONS.get(type(target)):
        metadata |= {"modelspec.prediction_type": prediction, "modelspec.predict_key": prediction}
    return metadata


def markers(objective: Objective) -> StateDict:
    """Empty tensors that tell ComfyUI, A1111 and Forge to use v-prediction, and the zero-terminal table."""
    if type(objective.target) is not V:
        return {}
    names = ["v_pred", "ztsnr"] if is_zero_terminal(objective) else ["v_pred"]
    return {name: torch.zeros(0) for name in names}


def is_zero_terminal(objective: Objective) -> bool:
    return objective.schedule.table.sigmas[-1].item() > ZERO_TERMINAL


def _encode_levels(sigmas: torch.Tensor) -> str:
    return json.dumps(["inf" if sigma == float("inf") else sigma for sigma in sigmas.tolist()])
