"""The scale between latents and x0: latent = x0 * std + mean, by channel."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ztsnr.core import checks
from ztsnr.core.checks import key
from ztsnr.core.errors import ConfigError

Scale = dict[str, list[float]]
"""mean and std, each of C numbers."""


def to_latents(x0: Tensor, scale: Mapping[str, list[float]]) -> Tensor:
    """x0 (B, C, h, w) -> the VAE's latents, of the same shape."""
    mean = torch.tensor(scale["mean"], device=x0.device)[:, None, None]
    std = torch.tensor(scale["std"], device=x0.device)[:, None, None]
    return x0 * std + mean


def check_statistics(normalisation: str, statistics: Mapping[str, Any] | None) -> None:
    """Checks a constructor's field `statistics`. Raises ConfigError."""
    if statistics is None:
        return
    if normalisation == "none":
        needed = f"{key('latent_normalisation')}=channel or scalar"
        raise ConfigError(f"{key('statistics')} replaces the measured statistics, which needs {needed}")
    if set(statistics) != {"mean", "std"} or len(statistics["mean"]) != len(statistics["std"]):
        raise ConfigError(f"{key('statistics')} must be a mean and a std of each channel, got {statistics!r}")
    checks.numbers("statistics.mean", statistics["mean"])
    checks.numbers("statistics.std", statistics["std"], above=0)


def latent_scale(normalisation: str, statistics: Mapping[str, Any] | None, measured: Mapping[str, Any]) -> Scale:
    """The scale of a normalisation. measured: facts of an index; `statistics`, unless None, replace them."""
    channels = len(measured["mean"])
    if statistics is not None:
        if len(statistics["mean"]) != channels:
            raise ConfigError(f"data.statistics must have the VAE's {channels} channels, got {statistics}")
        return dict(statistics)
    if normalisation == "channel":
        return {"mean": measured["mean"], "std": measured["std"]}
    std = measured["std_of_all"] if normalisation == "scalar" else 1 / measured["scaling_factor"]
    return {"mean": [0.0] * channels, "std": [std] * channels}
