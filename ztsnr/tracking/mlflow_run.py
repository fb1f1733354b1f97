"""The record of one run in MLflow: its events go to the spool in the run's folder, and from there to the store."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL.Image import Image

from ztsnr.tracking.delivery import BackgroundDelivery
from ztsnr.tracking.spool import Spool
from ztsnr.tracking.store import first_line, redact_credentials
from ztsnr.tracking.tracker import TrackedRun


class MLflowRun(TrackedRun):
    """Appends to the run's spool; a thread delivers new events from there."""

    def __init__(
        self, record_id: str, spool: Spool, uri: str, flush_seconds: float, final_flush_seconds: float
    ) -> None:
        self.id = record_id
        self.experiment_id = ""
        self._spool = spool
        self._public_uri = redact_credentials(uri)
        self._final_flush_seconds = final_flush_seconds
        self._undelivered_count = 0
        self._delivery = BackgroundDelivery(spool, uri, flush_seconds)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        self._spool.add_metrics({name: float(value) for name, value in values.items()}, step)

    def log_image(self, name: str, image: Image, step: int) -> None:
        self._spool.add_image(name, image, step)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        path = path.absolute()
        run_folder = self._spool.run_folder.absolute()
        if path.is_relative_to(run_folder):  # so that the run's folder can be moved before delivery
            path = path.relative_to(run_folder)
        self._spool.append("file", path=str(path), folder=folder)

    def describe(self, text: str, images: Sequence[str] = ()) -> None:
        self._spool.append("describe", text=text, images=list(images))

    def flush(self) -> None:
        self._spool.flush()

    def finish(self, status: str, reason: str = "") -> None:
        if reason:
            self.describe(reason)
        self._spool.append("finish", status=status)
        self._spool.flush()
        self._delivery.finish(self._final_flush_seconds)
        self._undelivered_count = self._spool.undelivered_count()
        self.experiment_id = self._spool.read_cursor().experiment_id
        self._spool.close()

    def undelivered(self) -> str:
        messages = []
        if self._spool.write_error:
            messages.append(f"{self._spool.folder} could not be written: {self._spool.write_error}.")
        if self._undelivered_count:
            messages.append(
                f"{self._undelivered_count} events of the record wait, since "
                f"tracking.uri={self._public_uri} failed: {first_line(self._delivery.error)} "
                f"To deliver them: python -m ztsnr.sync {self._spool.run_folder}"
            )
        return " ".join(messages)
