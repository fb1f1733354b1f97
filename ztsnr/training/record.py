"""The record of a run: opened before its first step, closed with its outcome."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ztsnr.checkpoints.find import changes
from ztsnr.checkpoints.state_file import State
from ztsnr.tracking.tracker import TrackedRun, Tracker


@contextmanager
def open_record(
    tracker: Tracker,
    title: str,
    parameters: Mapping[str, object],
    tags: Mapping[str, str],
    *,
    folder: Path,
    state: State | None,
    config: dict,
) -> Iterator[TrackedRun]:
    """state: the state that the run in `folder` resumes from; config: the run's present result config."""
    step = 0
    changed: list[str] = []
    if state is not None:
        step = state.step
        changed = changes(state, config)
        is_of_different_run = state.path.parent.parent.absolute() != folder.absolute()
        if is_of_different_run:
            tags = {**tags, "ztsnr.resumed_from": str(state.facts.get("record") or state.path)}
            if changed:
                tags[f"ztsnr.changed.{step}"] = "\n".join(changed)

    record = tracker.start(title, parameters, tags, folder, step=step, changes=changed)
    try:
        yield record
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        record.finish(status, f"{type(error).__name__}: {error}")
        if record.undelivered():
            error.add_note(record.undelivered())
        raise
    record.finish("FINISHED")
