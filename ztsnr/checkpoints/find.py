"""Finds the state that a run resumes from: a file, or the newest one in a run's folder."""

import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from ztsnr.config.identity import differences
from ztsnr.core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from ztsnr.checkpoints.state_file import State


def find_state(
    resume: str, allow_changes: bool, folder: Path, config: dict, digests: Collection[str]
) -> "State | None":
    """The state that the run in `folder` resumes from; None: it starts from scratch.

    resume: auto, the newest valid state in `folder`; never; a run's folder; a state's file.
    config, digests: this run's, as a state's file holds it, and the hashes by which its record may know it.
    A broken state is renamed, and the previous one is tried. Raises CheckpointError, and ConfigError if the state's
    config differs and `allow_changes` is false.
    """
    from ztsnr.checkpoints.state_file import read_state

    if resume == "never":
        _set_aside(folder / "checkpoints")
        _set_aside(folder / "tracking")
        return None
    if resume == "auto":
        state = _newest_valid(folder)
        if state is None and _record_digest(folder) not in (None, *digests):
            _set_aside(folder / "tracking")  # it belongs to a different run
    elif Path(resume).is_dir():
        state = _newest_valid(Path(resume))
        if state is None:
            raise CheckpointError(f"resume={resume} has no valid checkpoint in {Path(resume) / 'checkpoints'}")
    else:
        state = read_state(Path(resume))
    if state is not None:
        _check_config(state, allow_changes, config)
    return state


def changes(state: "State", config: dict) -> list[str]:
    """The differences between the state's config and `config`, one line each."""
    return differences(state.facts["config"], json.loads(json.dumps(config)))


def _check_config(state: "State", allow_changes: bool, config: dict) -> None:
    try:
        changed = changes(state, config)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{state.path} has no usable config in its metadata: {error!r}") from error
    if changed and not allow_changes:
        lines = "\n  ".join([f"{state.path} was trained with a different config:", *changed])
        raise ConfigError(
            f"{lines}\nUse allow_changes=true to continue with the new one, or resume=never to start from scratch."
        )


def _newest_valid(run_folder: Path) -> "State | None":
    from ztsnr.checkpoints.state_file import file_of, read_state, saved_steps

    for step in reversed(saved_steps(run_folder / "checkpoints")):
        path = file_of(run_folder / "checkpoints", step)
        try:
            return read_state(path)
        except CheckpointError as error:
            print(f"{error}. Renamed to .broken; trying the previous checkpoint.", file=sys.stderr)
            path.replace(path.with_suffix(".broken"))
    return None


def _record_digest(folder: Path) -> str | None:
    """The hash of the config with which this folder's record was started; None: there is no record."""
    try:
        with open(folder / "tracking" / "events.jsonl") as file:
            return json.loads(file.readline())["tags"].get("ztsnr.config", "")
    except (OSError, ValueError, KeyError):
        return None


def _set_aside(folder: Path) -> None:
    """Renames an earlier run's folder. Only ztsnr.sync finds it then."""
    if not folder.exists():
        return
    number = 1
    while folder.with_name(f"{folder.name}.{number}").exists():
        number += 1
    folder.rename(folder.with_name(f"{folder.name}.{number}"))
