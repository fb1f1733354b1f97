"""Where the record of runs goes, as training and sweeps see it. None of this imports MLflow."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL.Image import Image


class TrackedRun:
    """The record of one run that has started. This base keeps none.

    Values are recorded in the order of the calls. Nothing here raises: what cannot be delivered waits in the run's
    folder.
    """

    id: str | None = None
    """The run's own name for its record, the same after each resume."""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def log_image(self, name: str, image: Image, step: int) -> None: ...

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """folder: where it goes among the run's artifacts."""

    def describe(self, text: str, images: Sequence[str] = ()) -> None:
        """Markdown that a reader of the record sees first, with images among the files."""

    def flush(self) -> None:
        """Returns when what was recorded so far survives a loss of power."""

    def finish(self, status: str, reason: str = "") -> None:
        """status: FINISHED, FAILED or KILLED. Returns when all is delivered, or when that was tried for long enough."""

    def undelivered(self) -> str:
        """After finish: one line on what has not arrived and how to deliver it, or ''."""
        return ""


class Tracker:
    """Starts the records of runs, and keeps the one that sums up a sweep. This base keeps none."""

    @property
    def started(self) -> bool:
        """Whether a run was started."""
        return False

    def check(self) -> None:
        """Raises TrackingError, before any work, where no record can be kept."""

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
        """Opens the record of the run in `folder`.

        Where there is one it continues after `step` steps, with `changes` in the config; its parameters stay as they
        were.
        """
        return TrackedRun()

    def open_hint(self, sweep: str = "") -> str:
        """How to open all runs, or those of a sweep, in one line for the terminal; '' where there are none."""
        return ""

    def start_sweep(self, name: str, definition: Mapping, sweep: str) -> str:
        """Creates the store and in it the run that sums up a sweep, with its command and axes; returns its id."""
        return ""

    def update_sweep_progress(self, run_id: str, counts: Mapping[str, int]) -> None:
        """counts: runs by outcome. What cannot be delivered is only logged."""

    def finish_sweep(self, run_id: str, text: str, counts: Mapping[str, int]) -> None:
        """text: Markdown; counts: runs by outcome. Raises TrackingError."""

    def close_orphans(self, sweep: str) -> None:
        """Ends the records of a sweep's runs whose processes are gone."""


class NoTracker(Tracker):
    pass
