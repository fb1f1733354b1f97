"""Names of targets and timesteps in files. They are part of the format, so never rename one.

Exports write these names; doctor and the ComfyUI nodes read them. The classes may be renamed or moved.
"""

from collections.abc import Mapping
from typing import Any

from ztsnr.core import checks
from ztsnr.core.errors import ConfigError
from ztsnr.core.schedule.table import SigmaTable
from ztsnr.core.schedule.timesteps import FlowTime, LogSigma, TableIndex, TimestepMap
from ztsnr.core.target import EDM, X0, Eps, Flow, Target, V

TARGET_NAMES: Mapping[type[Target], str] = {Eps: "eps", X0: "x0", V: "v", EDM: "edm", Flow: "flow"}
TIMESTEP_NAMES: Mapping[type[TimestepMap], str] = {
    TableIndex: "tableindex",
    LogSigma: "logsigma",
    FlowTime: "flowtime",
}
TIMESTEP_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "tableindex": ("quantize",),
    "logsigma": ("scale",),
    "flowtime": ("scale",),
}
"""A file's parameters besides the name. The table of `tableindex` is not repeated: the file lists its sigmas."""

CUSTOM = "custom"
"""The name in files of a plug-in's target or timesteps, which no other program can read."""


def target_name(target: Target) -> str:
    return TARGET_NAMES.get(type(target), CUSTOM)


def encode_timesteps(timesteps: TimestepMap) -> dict[str, Any]:
    """{"name": ..., parameter: value, ...}, for JSON."""
    name = TIMESTEP_NAMES.get(type(timesteps), CUSTOM)
    return {"name": name} | {key: getattr(timesteps, key) for key in TIMESTEP_PARAMETERS.get(name, ())}


def decode_timesteps(encoded: Mapping[str, Any], table: SigmaTable) -> TimestepMap:
    """The inverse of `encode_timesteps`; `table` is the file's. Raises ConfigError for an unknown name or parameter."""
    name = encoded.get("name", "")
    checks.one_of("ztsnr.timesteps", name, TIMESTEP_NAMES.values())
    parameters = {key: value for key, value in encoded.items() if key != "name"}
    if parameters.keys() != set(TIMESTEP_PARAMETERS[name]):
        expected = ", ".join(TIMESTEP_PARAMETERS[name])
        raise ConfigError(f"ztsnr.timesteps={name} must have exactly the parameter {expected}, got {parameters}")

    if name == TIMESTEP_NAMES[TableIndex]:
        return TableIndex(table=table, **parameters)
    if name == TIMESTEP_NAMES[LogSigma]:
        return LogSigma(**parameters)
    return FlowTime(**parameters)
