"""What a checkpoint written by ztsnr.export says of itself, in the metadata of its safetensors header."""

import json
import math
import struct
from dataclasses import dataclass
from itertools import pairwise

import comfy.utils

from ztsnr import check
from ztsnr.errors import CheckpointError

TARGETS = ("v", "eps", "x0", "edm")


@dataclass(frozen=True, kw_only=True)
class Facts:
    target: str
    sigmas: tuple[float, ...]
    """The table, ascending; the last may be inf."""
    sigma_data: float
    grid: tuple[float, ...] | None = None
    """Its own sampling levels, decreasing to 0; the first may be inf."""
    latents: dict[str, tuple[float, ...]] | None = None
    """{"mean": (4), "std": (4)} of what the VAE encodes, where the model knows latents as (latent - mean) / std."""


def read_facts(path: str) -> Facts:
    """Raises CheckpointError where the file is no safetensors file or its metadata does not say all that is needed."""
    metadata = _metadata(path)
    if "ztsnr.format" not in metadata:
        raise CheckpointError(
            f"{path} carries no ztsnr metadata. Export it with python -m ztsnr.export, or choose 'set below'."
        )
    try:
        target, sigmas = metadata["ztsnr.target"], _levels(metadata["ztsnr.sigmas"])
        grid = _levels(metadata["ztsnr.grid"]) if "ztsnr.grid" in metadata else None
        latents = _latents(metadata["ztsnr.latents"]) if "ztsnr.latents" in metadata else None
        sigma_data = float(metadata["ztsnr.sigma_data"] if target == "edm" else 1)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has damaged ztsnr metadata: {error!r}. Export it again.") from error
    check.one_of(f"ztsnr.target of {path}", target, TARGETS)
    _check_order(path, sigmas, grid)
    return Facts(target=target, sigmas=sigmas, sigma_data=sigma_data, grid=grid, latents=latents)


def _metadata(path: str) -> dict[str, str]:
    try:
        return json.loads(comfy.utils.safetensors_header(path)).get("__metadata__", {})
    except (OSError, ValueError, TypeError, AttributeError, struct.error) as error:  # of a file of another format
        raise CheckpointError(f"{path} is no readable safetensors file: {error!r}") from error


def _levels(text: str) -> tuple[float, ...]:
    return tuple(float(level) for level in json.loads(text))


def _latents(text: str) -> dict[str, tuple[float, ...]]:
    latents = {name: tuple(float(value) for value in json.loads(text)[name]) for name in ("mean", "std")}
    if any(len(values) != 4 for values in latents.values()) or not all(0 < s < math.inf for s in latents["std"]):
        raise ValueError(f"ztsnr.latents must be 4 means and 4 positive deviations, got {text}")
    return latents


def _check_order(path: str, sigmas: tuple[float, ...], grid: tuple[float, ...] | None) -> None:
    ascending = all(low < high for low, high in pairwise(sigmas))
    if len(sigmas) < 2 or not sigmas[0] > 0 or not ascending or not sigmas[-2] < math.inf:
        raise CheckpointError(f"{path} has damaged ztsnr metadata: ztsnr.sigmas must ascend from above 0")
    descending = grid is None or all(high > low for high, low in pairwise(grid))
    if not descending or (grid is not None and (len(grid) < 2 or grid[-1] != 0)):
        raise CheckpointError(f"{path} has damaged ztsnr metadata: ztsnr.grid must decrease to 0")
