"""A diffusers folder's scheduler_config.json and model_index.json."""

from typing import Any

import torch

from ztsnr.core.noise import alpha
from ztsnr.core.objective import Objective
from ztsnr.core.schedule.table import STABLE_DIFFUSION, ZeroTerminal
from ztsnr.core.target import X0, Eps, Target, V

PREDICTION_TYPES: dict[type[Target], str] = {V: "v_prediction", Eps: "epsilon", X0: "sample"}
"""diffusers' names of the targets that it supports."""
SAME_TABLE = 1e-4
"""Two tables are the same if sqrt(alpha_bar) differs by less than this, relatively."""


def scheduler_config(objective: Objective) -> dict[str, Any]:
    """The config of diffusers' DDIMScheduler, which is exact at sigma = inf.

    The objective's target must be one of PREDICTION_TYPES.
    """
    return {
        "_class_name": "DDIMScheduler",
        "prediction_type": PREDICTION_TYPES[type(objective.target)],
        "timestep_spacing": "trailing",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 1,
        **_betas(objective.schedule.table.sigmas),
    }


def _betas(sigmas: torch.Tensor) -> dict[str, Any]:
    """Names Stable Diffusion's table, rescaled or not, and lists the betas of any other.

    Both are exact at sigma = inf.
    """
    named = {
        "beta_schedule": "scaled_linear",
        "beta_start": STABLE_DIFFUSION.beta_start,
        "beta_end": STABLE_DIFFUSION.beta_end,
    }
    rescaled = ZeroTerminal(table=STABLE_DIFFUSION, terminal=float("inf"))
    if _is_same_table(sigmas, STABLE_DIFFUSION.sigmas):
        return {**named, "rescale_betas_zero_snr": False}
    if _is_same_table(sigmas, rescaled.sigmas):
        return {**named, "rescale_betas_zero_snr": True}

    alpha_bar = 1 / (1 + sigmas.square())
    previous = torch.cat([torch.ones(1, dtype=alpha_bar.dtype), alpha_bar[:-1]])
    betas = 1 - alpha_bar / previous
    return {"trained_betas": betas.tolist(), "rescale_betas_zero_snr": False}


def _is_same_table(sigmas: torch.Tensor, others: torch.Tensor) -> bool:
    if len(sigmas) != len(others):
        return False
    return torch.allclose(alpha(sigmas), alpha(others), rtol=SAME_TABLE, atol=1e-12)


def model_index(family: str) -> dict[str, Any]:
    """diffusers' list of a pipeline's parts."""
    index: dict[str, Any] = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    if family == "sdxl":
        return {
            "_class_name": "StableDiffusionXLPipeline",
            **index,
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "force_zeros_for_empty_prompt": False,
        }
    return {
        "_class_name": "StableDiffusionPipeline",
        **index,
        "safety_checker": [None, None],
        "requires_safety_checker": False,
    }
