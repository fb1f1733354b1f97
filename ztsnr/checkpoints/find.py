"""Where a run goes on: resume=auto, in its own folder; a run's folder; a checkpoint, with which a new run begins."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ztsnr.config.identity import differences
from ztsnr.core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from ztsnr.checkpoints.state_file import State


def find_state(resume: str, allow_changes: bool, folder: Path, config: dict, digest: str) -> "State | None":
    """What the run in `folder` with this result config resumes from. Broken states are named and skipped."""
    from ztsnr.checkpoints.state_file import read_state

    if resume == "never":
        _set_aside(folder / "checkpoints", folder / "tracking")
        return None
    if resume == "auto":
        state = _newest_sound(folder)
        if state is None and _record_of(folder) not in (None, digest):
            _set_aside(folder / "tracking")  # of another run
    elif Path(resume).is_dir():
        state = _newest_sound(Path(resume))
        if state is None:
            raise CheckpointError(f"resume={resume} holds no sound checkpoint, in {Path(resume) / 'checkpoints'}")
    else:
        state = read_state(Path(resume))
    if state is not None:
        _refuse_changes(state, allow_changes, config)
    return state


def changes(state: "State", config: dict) -> list[str]:
    return differences(state.facts["config"], json.loads(json.dumps(config)))


def _refuse_changes(state: "State", allow_changes: bool, config: dict) -> None:
    try:
        found = changes(state, config)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{state.path} does not say how it was made: {error!r} in its config") from error
    if found and not allow_changes:
        raise ConfigError(
            "\n  ".join([f"{state.path} was trained with another config:", *found])
            + "\nUse allow_changes=true to go on with the new one, or resume=never to begin anew."
        )


def _newest_sound(run_folder: Path) -> "State | None":
    from ztsnr.checkpoints.state_file import file_of, read_state, saved_steps

    for step in reversed(saved_steps(run_folder / "checkpoints")):
        path = file_of(run_folder / "checkpoints", step)
        try:
            return read_state(path)
        except CheckpointError as error:
            print(f"{error}. It is called .broken now, and the one before it is looked at.", file=sys.stderr)
            path.replace(path.with_suffix(".broken"))
    return None


def _record_of(folder: Path) -> str | None:
    """The digest of the config that the record in this folder was begun with."""
    try:
        with open(folder / "tracking" / "events.jsonl") as file:
            return json.loads(file.readline())["tags"].get("ztsnr.config", "")
    except (OSError, ValueError, KeyError):
        return None


def _set_aside(*folders: Path) -> None:
    """An earlier run's, under a name that is not looked for, but by ztsnr.sync."""
    for folder in folders:
        number = 1
        while folder.exists():
            aside = folder.with_name(f"{folder.name}.{number}")
            number += 1
            if not aside.exists():
                folder.rename(aside)
