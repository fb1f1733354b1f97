"""The metadata that ztsnr.export writes into a safetensors header: schedule, target and latents of the model."""

import json
import math
import struct
from dataclasses import dataclass
from itertools import pairwise

import comfy.utils  # pyright: ignore[reportMissingImports]
import folder_paths  # pyright: ignore[reportMissingImports]

from ztsnr.core import checks
from ztsnr.core import metadata_keys as keys
from ztsnr.core.errors import CheckpointError, ConfigError
from ztsnr.core.format_names import TARGET_NAMES, decode_timesteps
from ztsnr.core.schedule.grid import Grid, SigmaList, WithTerminalStep
from ztsnr.core.schedule.table import SigmaTable
from ztsnr.core.schedule.timesteps import TimestepMap
from ztsnr.core.target import EDM, X0, Eps, V

from .tables import CEILING, Levels

FOLDERS = ("checkpoints", "diffusion_models", "loras")
TARGETS = [TARGET_NAMES[kind] for kind in (V, Eps, X0, EDM)]
"""Those that ComfyUI knows."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    target: str
    table: SigmaTable
    timesteps: TimestepMap
    sigma_data: float
    grid: Grid | None = None
    """The model's own sampling levels."""
    latents: dict[str, tuple[float, ...]] | None = None
    """{"mean": (4), "std": (4)} of the VAE's latents, for a model of (latent - mean) / std."""


def file_names() -> list[str]:
    """ComfyUI's checkpoints, then U-Nets and LoRAs as `folder: name`."""
    checkpoints, *others = FOLDERS
    names = list(folder_paths.get_filename_list(checkpoints))
    for folder in others:
        names += [f"{folder}: {name}" for name in folder_paths.get_filename_list(folder)]
    return names


def path_of(name: str) -> str:
    folder, colon, rest = name.partition(": ")
    if not colon:
        return folder_paths.get_full_path_or_raise(FOLDERS[0], name)
    return folder_paths.get_full_path_or_raise(folder, rest)


def read_facts(path: str) -> Facts:
    """Raises CheckpointError if the file is not a safetensors file or its metadata is incomplete."""
    metadata = {name: value for name, value in _metadata(path).items() if name.startswith("ztsnr.")}
    if keys.FORMAT not in metadata:
        raise CheckpointError(
            f"{path} carries no ztsnr metadata. Export it with python -m ztsnr.export, or choose 'set below'."
        )
    try:
        return _facts(metadata)
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error} in its ztsnr metadata. Export it again.") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has ztsnr metadata that these nodes cannot use: {error}") from error


def _metadata(path: str) -> dict[str, str]:
    try:
        return json.loads(comfy.utils.safetensors_header(path) or "").get("__metadata__", {})
    except (OSError, ValueError, AttributeError, struct.error) as error:  # a file of a different format
        raise CheckpointError(f"{path} is not a readable safetensors file") from error


def _facts(metadata: dict[str, str]) -> Facts:
    checks.one_of(keys.TARGET, metadata[keys.TARGET], TARGETS)
    table = _table(_levels(metadata[keys.SIGMAS]))
    return Facts(
        target=metadata[keys.TARGET],
        table=table,
        timesteps=decode_timesteps(json.loads(metadata[keys.TIMESTEPS]), table),
        sigma_data=float(metadata[keys.SIGMA_DATA]) if metadata[keys.TARGET] == "edm" else 1.0,
        grid=_grid(_levels(metadata[keys.GRID])) if keys.GRID in metadata else None,
        latents=_latents(json.loads(metadata[keys.LATENTS])) if keys.LATENTS in metadata else None,
    )


def _levels(text: str) -> list[float]:
    """At least two levels, those above CEILING lowered to it."""
    levels = [min(float(level), CEILING) for level in json.loads(text)]
    if len(levels) < 2:
        raise ConfigError(f"levels must be a list of at least two, got {text}")
    return levels


def _table(levels: list[float]) -> Levels:
    if not levels[0] > 0 or not all(low < high for low, high in pairwise(levels)):
        raise ConfigError(f"ztsnr.sigmas must ascend from above 0, all but the last below {CEILING:g}")
    return Levels(levels=tuple(levels))


def _grid(levels: list[float]) -> Grid:
    """The list, whose first level stays for any number of steps."""
    first, *rest, last = levels
    if last != 0:
        raise ConfigError(f"ztsnr.grid must decrease to 0, got {last} at its end")
    below = SigmaList(sigma_list=tuple(rest or [first]))
    return WithTerminalStep(grid=below, terminal=first) if rest else below


def _latents(statistics: dict) -> dict[str, tuple[float, ...]]:
    mean = tuple(map(float, statistics["mean"]))
    std = tuple(map(float, statistics["std"]))
    if len(mean) != 4 or len(std) != 4 or not all(0 < value < math.inf for value in std):
        raise ConfigError(f"ztsnr.latents must be 4 means and 4 positive deviations, got {statistics}")
    return {"mean": mean, "std": std}
