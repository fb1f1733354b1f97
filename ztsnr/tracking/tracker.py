"""The interface between the record of runs and training or sweeps. It does not import MLflow."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL.Image import Image


class TrackedRun:
    """The record of one run that has started. This base records nothing.

    Values are recorded in the order of the calls. No method raises: events that cannot be delivered wait in the run's
    folder.
    """

    id: str | None = None
    """The id of the record, which a resumed run keeps."""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def log_image(self, name: str, image: Image, step: int) -> None: ...

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """folder: its folder among the run's artifacts."""

    def describe(self, text: str, images: Sequence[str] = ()) -> None:
        """text: Markdown at the top of the record. images: names of logged files to show below it."""

    def flush(self) -> None:
        """Returns when everything recorded so far would survive a loss of power."""

    def finish(self, status: str, reason: str = "") -> None:
        """status: FINISHED, FAILED or KILLED. Returns when all is delivered, or when the time for that is over."""

    def undelivered(self) -> str:
        """After finish: one line that says how many events were not delivered and how to deliver them, or ''."""
        return ""


class Tracker:
    """Starts the records of runs, and maintains the summary run of a sweep. This base records nothing."""

    @property
    def started(self) -> bool:
        """Whether a run was started."""
        return False

    def check(self) -> None:
        """Called before any work. Raises TrackingError if runs cannot be recorded."""

    def start(
        self,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        folder: Path,
        *,
        step: int = 0,
        changes: Sequence[str] = (),
    ) -> TrackedRun:
        """Starts the record of the run in `folder`, or continues it after `step` steps, with `changes` in the config.

        A continued record keeps its parameters.
        """
        return TrackedRun()

    def open_hint(self, sweep: str = "") -> str:
        """One line for the terminal: how to open all runs, or those of a sweep; '' if there are none."""
        return ""

    def start_sweep(self, name: str, definition: Mapping, sweep: str) -> str:
        """Creates the store if needed, and the summary run of a sweep with its command and axes; returns its id."""
        return ""

    def update_sweep_progress(self, run_id: str, counts: Mapping[str, int]) -> None:
        """counts: runs by outcome. Errors are only logged."""

    def finish_sweep(self, run_id: str, text: str, counts: Mapping[str, int]) -> None:
        """text: Markdown; counts: runs by outcome. Raises TrackingError."""

    def close_orphans(self, sweep: str) -> None:
        """Ends the records of a sweep's runs that are still marked as running."""


class NoTracker(Tracker):
    pass
