"""What brings a spool's events to MLflow, in their order. With tracking.py and store.py it is all that
writes to MLflow.

Every call can be made twice without a trace: a run is found by its tag before it is created, values and files carry
their time and name in the spool. So an attempt that broke off anywhere is made again from the last mark.
"""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from ztsnr.core.errors import TrackingError
from ztsnr.tracking.spool import Spool

METRICS_A_CALL, PARAMS_A_CALL = 1000, 100  # MLflow's limits


class Delivery:
    """`connect` makes the client; `alone` is held while the store may be made."""

    def __init__(self, spool: Spool, connect: Callable, alone: Callable[[], AbstractContextManager]):
        self.spool, self.connect, self.alone, self.client = spool, connect, alone, None

    def deliver(self) -> None:
        """All there is. Raises whatever MLflow, its database or its server does; what has arrived is marked."""
        at, metrics, end = self.spool.delivered, [], 0
        if self.client is None:
            with self.alone():
                self.client = self.connect()
        for end, event in self.spool.read(at["position"]):
            if event["kind"] == "metrics":
                entries = [(name, value, event["time"], event["step"]) for name, value in event["values"].items()]
                if len(metrics) + len(entries) > METRICS_A_CALL:
                    self._send(at, metrics)
                metrics += entries
            else:
                self._send(at, metrics)
                getattr(self, f"_{event['kind']}")(at, event)
            at["position"] = end
            if not metrics:
                self.spool.mark(**at)
        self._send(at, metrics)

    def _send(self, at: dict, metrics: list[tuple]) -> None:
        from mlflow.entities import Metric

        for start in range(0, len(metrics), METRICS_A_CALL):
            batch = [Metric(*entry) for entry in metrics[start : start + METRICS_A_CALL]]
            self.client.log_batch(at["run_id"], metrics=batch)
        if metrics:
            metrics.clear()
            self.spool.mark(**at)

    def _start(self, at: dict, event: dict) -> None:
        from mlflow.entities import Param

        with self.alone():
            at["experiment_id"] = find_or_create_experiment(self.client, event["experiment"], event["artifacts"])
        mine = f"tags.`ztsnr.record` = '{event['id']}'"
        found = self.client.search_runs([at["experiment_id"]], mine)
        tags = event["tags"] | {"ztsnr.record": event["id"]}
        run = (
            found[0]
            if found
            else self.client.create_run(
                at["experiment_id"], start_time=event["time"], run_name=event["name"], tags=tags
            )
        )
        at["run_id"] = run.info.run_id
        entries = [Param(key, value) for key, value in event["params"].items()]
        for start in range(0, len(entries), PARAMS_A_CALL):
            self.client.log_batch(at["run_id"], params=entries[start : start + PARAMS_A_CALL])

    def _resume(self, at: dict, event: dict) -> None:
        self.client.update_run(at["run_id"], status="RUNNING")
        tags = self.client.get_run(at["run_id"]).data.tags
        if "ztsnr.outcome" in tags:  # of its end that was none
            self.client.delete_tag(at["run_id"], "ztsnr.outcome")
        self.client.set_tag(at["run_id"], "ztsnr.resumed", f"after steps {event['steps']}")
        if event["changes"]:
            self.client.set_tag(at["run_id"], f"ztsnr.changed.{event['step']}", "\n".join(event["changes"]))

    def _picture(self, at: dict, event: dict) -> None:
        from mlflow.tracking.multimedia import compress_image_size
        from PIL import Image

        file = self.spool.folder / "files" / event["file"]
        if not file.is_file():
            return  # removed after an earlier delivery, whose mark was lost
        self.client.log_artifact(at["run_id"], str(file), "images")
        with tempfile.TemporaryDirectory() as folder, Image.open(file) as picture:
            small = Path(folder) / f"{file.stem}+compressed.webp"  # the names by which MLflow's UI finds a picture
            compress_image_size(picture).save(small)
            self.client.log_artifact(at["run_id"], str(small), "images")
        self.client.set_tag(at["run_id"], "mlflow.loggedImages", "True")
        file.unlink()

    def _file(self, at: dict, event: dict) -> None:
        path = self.spool.run_folder / event["path"]
        if path.is_file():
            self.client.log_artifact(at["run_id"], str(path), event["folder"])
        else:
            self.client.set_tag(at["run_id"], "ztsnr.missing", f"{event['path']} was gone before it was delivered")

    def _describe(self, at: dict, event: dict) -> None:
        address = f"get-artifact?path={{}}&run_uuid={at['run_id']}"
        shown = [f"![{name}]({address.format(name)})" for name in event["pictures"]]
        self.client.set_tag(at["run_id"], "mlflow.note.content", f"{event['text']}\n\n{' '.join(shown)}")

    def _finish(self, at: dict, event: dict) -> None:
        self.client.set_terminated(at["run_id"], event["status"], end_time=event["time"])


def find_or_create_experiment(client, name: str, artifacts: str | None) -> str:
    """Its id; `artifacts` is where a new one keeps its files, null for the store's own choice."""
    found = client.get_experiment_by_name(name)
    if found is None:
        return client.create_experiment(name, artifact_location=artifacts)
    if found.lifecycle_stage == "deleted":
        raise TrackingError(f"tracking.experiment={name} was deleted in this store: restore it, or choose another name")
    return found.experiment_id
