"""What a written file says of itself: ModelSpec's keys, read by several programs, and our own."""

import json
from collections.abc import Mapping

import torch

from ztsnr.core.format_names import encode_timesteps, target_name
from ztsnr.core.objective import Objective
from ztsnr.core.schedule.table import ScaledLinear
from ztsnr.core.target import EDM, Eps, V
from ztsnr.formats.ldm import State

FORMAT = "1"
ARCHITECTURES = {"sdxl": "stable-diffusion-xl-v1-base", "sd15": "stable-diffusion-v1"}
RESOLUTIONS = {"sdxl": "1024x1024", "sd15": "512x512"}
ZERO_TERMINAL = 1000.0
"""A table that ends above this sigma is one of zero terminal SNR, or a stand-in for it; SDXL's ends at 14.6."""
SAME = 1e-4
"""Relative difference of two tables that counts as none."""


def metadata_of(objective: Objective, config: Mapping, steps: int, family: str, kind: str = "") -> dict[str, str]:
    """`config`: the run's, resolved. `steps`: of the sampling grid that is told. `kind`: "/lora" for a LoRA."""
    schedule = objective.schedule
    told = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": ARCHITECTURES[family] + kind,
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": f"ztsnr {target_name(objective.target)}",
        "modelspec.resolution": RESOLUTIONS[family],
        "ztsnr.format": FORMAT,
        "ztsnr.config": json.dumps(config),
        "ztsnr.target": target_name(objective.target),
        "ztsnr.grid": _numbers(schedule.grid.sigmas(steps)),
        "ztsnr.sigmas": _numbers(schedule.table.sigmas),
        "ztsnr.timesteps": json.dumps(encode_timesteps(schedule.timesteps)),
    }
    if isinstance(objective.target, EDM):
        told["ztsnr.sigma_data"] = str(objective.target.sigma_data)
    if prediction := prediction_type(objective):
        told |= {"modelspec.prediction_type": prediction, "modelspec.predict_key": prediction}
    return told


def prediction_type(objective: Objective) -> str | None:
    """ModelSpec's word for the target, of which it knows two."""
    return {V: "v", Eps: "epsilon"}.get(type(objective.target))


def markers(objective: Objective) -> State:
    """Empty tensors by which ComfyUI, A1111 and Forge know a v-prediction model, and its zero-terminal table."""
    if prediction_type(objective) != "v":
        return {}
    names = ["v_pred", "ztsnr"] if is_zero_terminal(objective) else ["v_pred"]
    return {name: torch.zeros(0) for name in names}


def is_zero_terminal(objective: Objective) -> bool:
    return objective.schedule.table.sigmas[-1].item() > ZERO_TERMINAL


def scheduler_config(objective: Objective) -> dict:
    """Of diffusers' DDIMScheduler, in which sigma = inf is exact. Raises KeyError for a target that it lacks."""
    word = {"v": "v_prediction", "eps": "epsilon", "x0": "sample"}[target_name(objective.target)]
    return {
        "_class_name": "DDIMScheduler",
        "prediction_type": word,
        "timestep_spacing": "trailing",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 1,
        **_betas(objective),
    }


def _betas(objective: Objective) -> dict:
    """Stable Diffusion's table by its name, rescaled or not; any other by its betas, exact at sigma = inf too."""
    sigmas = objective.schedule.table.sigmas
    alpha_bar = 1 / (1 + sigmas.square())
    plain = ScaledLinear(beta_start=0.00085, beta_end=0.012, steps=1000)
    named = {"beta_schedule": "scaled_linear", "beta_start": plain.beta_start, "beta_end": plain.beta_end}
    if len(sigmas) == plain.steps:
        root = torch.rsqrt(1 + plain.sigmas.square())
        root_rescaled = (root - root[-1]) * root[0] / (root[0] - root[-1])
        for rescaled, wanted in ((False, root), (True, root_rescaled)):
            if torch.allclose(alpha_bar.sqrt(), wanted, rtol=SAME, atol=1e-12):
                return {**named, "rescale_betas_zero_snr": rescaled}
    betas = 1 - alpha_bar / torch.cat([torch.ones(1, dtype=alpha_bar.dtype), alpha_bar[:-1]])
    return {"trained_betas": betas.tolist(), "rescale_betas_zero_snr": False}


def _numbers(sigmas: torch.Tensor) -> str:
    return json.dumps(["inf" if sigma == float("inf") else sigma for sigma in sigmas.tolist()])
