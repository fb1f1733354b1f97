"""The command line of a resumed run: its recorded overrides, then the new ones, which take precedence."""

from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from ztsnr.config.arguments import quoted
from ztsnr.core.errors import CheckpointError

RESUME_KEYS = ("resume=", "allow_changes=", "sweep.resume=")
"""Overrides that say how to resume; they are not recorded."""


def with_recorded_overrides(overrides: list[str]) -> list[str]:
    """For resume=PATH, prepends the overrides that the run at PATH was started with.

    If PATH is a run's folder, the run continues in it.
    """
    resume = "auto"
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.get_key_element() == "resume":
            resume = override.value()
    if resume in ("auto", "never"):
        return overrides
    from ztsnr.checkpoints.state_file import file_of, read_facts, saved_steps

    path = Path(str(resume))
    files = [file_of(path / "checkpoints", step) for step in reversed(saved_steps(path / "checkpoints"))]
    for file in files or [path]:
        try:
            _, facts, _ = read_facts(file)
        except CheckpointError:
            continue  # find_state reports the error
        same_folder = [f"hydra.run.dir={quoted(str(path))}"] if files else []
        return [*(facts.get("overrides") or []), *overrides, *same_folder]
    return overrides


def overrides_to_record(overrides: list[str]) -> list[str]:
    return [word for word in overrides if not word.startswith(RESUME_KEYS)]
