"""A training state as a file: RUN/checkpoints/step_00001000.safetensors, verified by its own checksum."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ztsnr.checkpoints.tree import unpack
from ztsnr.config.names import upgrade
from ztsnr.config.renamed import upgrade_overrides
from ztsnr.core.errors import CheckpointError
from ztsnr.io.tensors import checksum, open_tensors, write_tensors

STATE_FORMAT = "state 1"
NAME = re.compile(r"step_(\d{8,})\.safetensors")


@dataclass(frozen=True)
class State:
    path: Path
    step: int
    facts: dict
    """The run's resolved config, overrides, record id, and the facts of its data."""
    parts: dict
    """The state of each part of a run, by the part's name."""


def file_of(folder: Path, step: int) -> Path:
    return folder / f"step_{step:08d}.safetensors"


def saved_steps(folder: Path) -> list[int]:
    """Ascending."""
    matches = [NAME.fullmatch(path.name) for path in folder.glob("step_*")]
    return sorted(int(match[1]) for match in matches if match)


def write_state(path: Path, step: int, facts: Mapping, tree: object, tensors: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError if the disk refuses."""
    texts = {"ztsnr.step": str(step), "ztsnr.facts": json.dumps(facts), "ztsnr.tree": json.dumps(tree)}
    metadata = {"ztsnr.format": STATE_FORMAT, **texts, "ztsnr.checksum": checksum(tensors, *texts.values())}
    write_tensors(path, tensors, metadata)


def read_facts(path: Path) -> tuple[int, dict, dict[str, str]]:
    """Reads a state's metadata without verifying it: its step, its facts with today's names, and all metadata."""
    with open_tensors(path) as file:
        metadata = file.metadata() or {}
    found_format = metadata.get("ztsnr.format")
    if found_format != STATE_FORMAT:
        raise CheckpointError(
            f"{path} is not a training state: its format is {found_format!r}, this version reads {STATE_FORMAT!r}"
        )
    try:
        step = int(metadata["ztsnr.step"])
        facts = json.loads(metadata["ztsnr.facts"])
        if step < 0 or not isinstance(facts, dict):
            raise ValueError("no step or no facts")
        if "config" in facts:
            facts["config"] = upgrade(facts["config"])
        if isinstance(facts.get("overrides"), list):
            facts["overrides"] = upgrade_overrides(facts["overrides"])
        return step, facts, metadata
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has broken metadata: {error}") from error


def read_state(path: Path) -> State:
    """Reads and verifies a state. Raises CheckpointError."""
    step, facts, metadata = read_facts(path)
    with open_tensors(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not iterable)
    try:
        texts = [metadata[f"ztsnr.{name}"] for name in ("step", "facts", "tree")]
        if checksum(tensors, *texts) != metadata["ztsnr.checksum"]:
            raise CheckpointError("checksum mismatch, it is corrupted")
        parts = unpack(json.loads(texts[2]), tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has broken metadata: {error}") from error
    if not isinstance(parts, dict):
        raise CheckpointError(f"{path} has no state in it: {type(parts).__name__}")
    return State(path, step, facts, parts)
