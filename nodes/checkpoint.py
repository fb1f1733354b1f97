"""What a file written by ztsnr.export says of its model, in the metadata of its safetensors header."""

import json
import math
import struct
from dataclasses import dataclass
from itertools import pairwise

import comfy.utils  # pyright: ignore[reportMissingImports]
import folder_paths  # pyright: ignore[reportMissingImports]

from ztsnr.core import checks
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
    """Its own sampling levels."""
    latents: dict[str, tuple[float, ...]] | None = None
    """{"mean": (4), "std": (4)} of what the VAE encodes, where the model knows latents as (latent - mean) / std."""


def file_names() -> list[str]:
    """Of ComfyUI's checkpoints, and after their folder's name of its lone U-Nets and LoRAs."""
    first, *others = ((folder, folder_paths.get_filename_list(folder)) for folder in FOLDERS)
    return [*first[1], *(f"{folder}: {name}" for folder, names in others for name in names)]


def path_of(name: str) -> str:
    folder, colon, rest = name.partition(": ")
    return folder_paths.get_full_path_or_raise(*((folder, rest) if colon else (FOLDERS[0], name)))


def read_facts(path: str) -> Facts:
    """Raises CheckpointError where the file is no safetensors file or its metadata does not say all that is needed."""
    told = {name: value for name, value in _metadata(path).items() if name.startswith("ztsnr.")}
    if "ztsnr.format" not in told:
        raise CheckpointError(
            f"{path} carries no ztsnr metadata. Export it with python -m ztsnr.export, or choose 'set below'."
        )
    try:
        return _facts(told)
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error} in its ztsnr metadata. Export it again.") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has ztsnr metadata that these nodes cannot use: {error}") from error


def _metadata(path: str) -> dict[str, str]:
    try:
        return json.loads(comfy.utils.safetensors_header(path) or "").get("__metadata__", {})
    except (OSError, ValueError, AttributeError, struct.error) as error:  # of a file of another format
        raise CheckpointError(f"{path} is no readable safetensors file") from error


def _facts(told: dict[str, str]) -> Facts:
    checks.one_of("ztsnr.target", told["ztsnr.target"], TARGETS)
    table = _table(_levels(told["ztsnr.sigmas"]))
    return Facts(
        target=told["ztsnr.target"],
        table=table,
        timesteps=decode_timesteps(json.loads(told["ztsnr.timesteps"]), table),
        sigma_data=float(told["ztsnr.sigma_data"]) if told["ztsnr.target"] == "edm" else 1.0,
        grid=_grid(_levels(told["ztsnr.grid"])) if "ztsnr.grid" in told else None,
        latents=_latents(json.loads(told["ztsnr.latents"])) if "ztsnr.latents" in told else None,
    )


def _levels(text: str) -> list[float]:
    """At least two, with CEILING for what lies above it."""
    levels = [min(float(level), CEILING) for level in json.loads(text)]
    if len(levels) < 2:
        raise ConfigError(f"levels must be a list of at least two, got {text}")
    return levels


def _table(levels: list[float]) -> Levels:
    if not levels[0] > 0 or not all(low < high for low, high in pairwise(levels)):
        raise ConfigError(f"ztsnr.sigmas must ascend from above 0, all but the last below {CEILING:g}")
    return Levels(levels=tuple(levels))


def _grid(levels: list[float]) -> Grid:
    """The list entered from its first level, which stays whatever the number of steps."""
    first, *rest, last = levels
    if last != 0:
        raise ConfigError(f"ztsnr.grid must decrease to 0, got {last} at its end")
    below = SigmaList(sigma_list=tuple(rest or [first]))
    return WithTerminalStep(grid=below, terminal=first) if rest else below


def _latents(told: dict) -> dict[str, tuple[float, ...]]:
    latents = {name: tuple(float(value) for value in told[name]) for name in ("mean", "std")}
    if any(len(values) != 4 for values in latents.values()) or not all(0 < s < math.inf for s in latents["std"]):
        raise ConfigError(f"ztsnr.latents must be 4 means and 4 positive deviations, got {told}")
    return latents
