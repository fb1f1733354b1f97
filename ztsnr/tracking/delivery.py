"""Delivers a spool's events to MLflow in order, either once or in the background of a run.

Every call is idempotent: a run is searched by its tag before it is created, and values and files keep their time and
name from the spool. So a delivery that was interrupted anywhere starts again from the last saved cursor.
"""

import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ztsnr.core.errors import TrackingError
from ztsnr.tracking.spool import Cursor, Spool
from ztsnr.tracking.store import create_store, find_or_create_experiment

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100
"""MLflow's limits."""
MAX_RETRY_SECONDS = 15.0
"""The longest pause between two attempts to reach a store that fails."""


class Delivery:
    """Sends the events of `spool` to the store at `uri`."""

    def __init__(self, spool: Spool, uri: str) -> None:
        self.spool = spool
        self.uri = uri
        self._client: MlflowClient | None = None

    def deliver(self) -> None:
        """Delivers all waiting events, and saves in the cursor how far it came.

        Raises any error of MLflow, its database or its server.
        """
        client = self._connect()
        cursor = self.spool.read_cursor()
        metrics: list[Metric] = []  # of consecutive events, sent in one call
        for end, event in self.spool.read(cursor.position):
            if event["kind"] == "metrics":
                new = _metrics_of(event)
                if len(metrics) + len(new) > METRICS_PER_CALL:
                    self._send_metrics(client, metrics, cursor)
                metrics += new
                cursor.position = end
            else:
                self._send_metrics(client, metrics, cursor)
                self._send(client, event, cursor)
                cursor.position = end
                self.spool.save_cursor(cursor)
        self._send_metrics(client, metrics, cursor)

    def _connect(self) -> "MlflowClient":
        if self._client is None:
            self._client = create_store(self.uri)
        return self._client

    def _send_metrics(self, client: "MlflowClient", metrics: "list[Metric]", cursor: Cursor) -> None:
        """Sends and empties `metrics`."""
        if not metrics:
            return
        for start in range(0, len(metrics), METRICS_PER_CALL):
            client.log_batch(cursor.run_id, metrics=metrics[start : start + METRICS_PER_CALL])
        metrics.clear()
        self.spool.save_cursor(cursor)

    def _send(self, client: "MlflowClient", event: dict, cursor: Cursor) -> None:
        match event["kind"]:
            case "start":
                self._start(client, event, cursor)
            case "resume":
                self._resume(client, event, cursor.run_id)
            case "image":
                self._send_image(client, event, cursor.run_id)
            case "file":
                self._send_file(client, event, cursor.run_id)
            case "describe":
                self._describe(client, event, cursor.run_id)
            case "finish":
                client.set_terminated(cursor.run_id, event["status"], end_time=event["time"])
            case kind:
                raise TrackingError(f"{self.spool.events} has an event of the unknown kind {kind!r}")

    def _start(self, client: "MlflowClient", event: dict, cursor: Cursor) -> None:
        from mlflow.entities import Param

        cursor.experiment_id = find_or_create_experiment(client, self.uri, event["experiment"], event["artifacts"])
        created = client.search_runs([cursor.experiment_id], f"tags.`ztsnr.record` = '{event['id']}'")
        if created:
            run = created[0]
        else:
            tags = event["tags"] | {"ztsnr.record": event["id"]}
            run = client.create_run(cursor.experiment_id, start_time=event["time"], run_name=event["name"], tags=tags)
        cursor.run_id = run.info.run_id

        params = [Param(key, value) for key, value in event["params"].items()]
        for start in range(0, len(params), PARAMS_PER_CALL):
            client.log_batch(cursor.run_id, params=params[start : start + PARAMS_PER_CALL])

    def _resume(self, client: "MlflowClient", event: dict, run_id: str) -> None:
        client.update_run(run_id, status="RUNNING")
        if "ztsnr.outcome" in client.get_run(run_id).data.tags:  # the run goes on, so its outcome is open
            client.delete_tag(run_id, "ztsnr.outcome")
        client.set_tag(run_id, "ztsnr.resumed", f"after steps {event['steps']}")
        if event["changes"]:
            client.set_tag(run_id, f"ztsnr.changed.{event['step']}", "\n".join(event["changes"]))

    def _send_image(self, client: "MlflowClient", event: dict, run_id: str) -> None:
        from mlflow.tracking.multimedia import compress_image_size
        from PIL import Image

        file = self.spool.folder / "files" / event["file"]
        if not file.is_file():
            return  # removed after an earlier delivery whose cursor was lost
        client.log_artifact(run_id, str(file), "images")
        with tempfile.TemporaryDirectory() as folder, Image.open(file) as image:
            thumbnail = Path(folder) / f"{file.stem}+compressed.webp"  # MLflow's UI finds an image by these names
            compress_image_size(image).save(thumbnail)
            client.log_artifact(run_id, str(thumbnail), "images")
        client.set_tag(run_id, "mlflow.loggedImages", "True")
        file.unlink()

    def _send_file(self, client: "MlflowClient", event: dict, run_id: str) -> None:
        path = self.spool.run_folder / event["path"]
        if path.is_file():
            client.log_artifact(run_id, str(path), event["folder"])
        else:
            client.set_tag(run_id, "ztsnr.missing", f"{event['path']} was gone before it was delivered")

    def _describe(self, client: "MlflowClient", event: dict, run_id: str) -> None:
        images = [f"![{name}](get-artifact?path={name}&run_uuid={run_id})" for name in event["images"]]
        client.set_tag(run_id, "mlflow.note.content", f"{event['text']}\n\n{' '.join(images)}")


class BackgroundDelivery:
    """A thread that delivers new events every `flush_seconds`, and retries after failures with growing pauses."""

    def __init__(self, spool: Spool, uri: str, flush_seconds: float) -> None:
        self.error: Exception | None = None
        """Why the last attempt failed."""
        self._delivery = Delivery(spool, uri)
        self._flush_seconds = flush_seconds
        self._finishing = threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """Delivers the rest and ends the thread; events that still fail after `seconds` stay in the spool."""
        self._deadline = time.monotonic() + seconds
        self._finishing.set()
        self._thread.join()

    def _run(self) -> None:
        pause = self._flush_seconds
        while True:
            finishing = self._finishing.is_set()  # read first, so that the last attempt covers the last event
            try:
                self._delivery.deliver()
                self.error = None
                pause = self._flush_seconds
            except Exception as error:  # any error of MLflow, its database or its server; the run continues
                self.error = error
                pause = min(2 * pause, MAX_RETRY_SECONDS)

            if not finishing:
                self._finishing.wait(pause)
            elif self.error is None or time.monotonic() > self._deadline:
                return
            else:
                time.sleep(min(pause, 1.0))


def _metrics_of(event: dict) -> "list[Metric]":
    from mlflow.entities import Metric

    return [Metric(name, value, event["time"], event["step"]) for name, value in event["values"].items()]
