import os
import random

import pytest
from PIL import Image

from ztsnr.core.errors import TrackingError
from ztsnr.tracking.delivery import Delivery
from ztsnr.tracking.spool import Spool
from ztsnr.tracking.store import make_client
from ztsnr.tracking.sync import deliver_spool

START = {"id": "abc", "name": "run", "params": {"a": "1"}, "tags": {}, "experiment": "test", "artifacts": None}


def record(spool, steps):
    for step in steps:
        spool.add_metrics({"loss": 1 / step, "lr": 0.1}, step)
        if step % 10 == 0:
            spool.add_image("samples/x", Image.new("L", (4, 4), step), step)


def test_resumed_spool_does_not_repeat_what_was_recorded_before_a_kill(tmp_path):
    spool = Spool(tmp_path / "tracking")
    spool.append("start", **START, uri="")
    record(spool, range(1, 26))
    spool.close()
    with open(spool.events, "ab") as file:
        file.write(b'{"kind": "metrics", "ti')  # killed within a line
    again = Spool(tmp_path / "tracking")
    assert again.start_event["id"] == "abc"
    record(again, range(20, 31))
    events = [event for _, event in again.read(0)]
    assert [event["step"] for event in events if event["kind"] == "metrics"] == list(range(1, 31))
    assert [event["step"] for event in events if event["kind"] == "image"] == [10, 20, 30]
    assert len(list((tmp_path / "tracking" / "files").iterdir())) == 3
    again.close()


def test_spool_in_use_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ztsnr.tracking.spool.LOCK_SECONDS", 0.0)
    spool = Spool(tmp_path / "tracking")
    with pytest.raises(TrackingError, match="in use by another process"):
        Spool(tmp_path / "tracking")
    spool.close()
    Spool(tmp_path / "tracking").close()


def test_full_disk_raises_nothing_and_loses_no_event(tmp_path, monkeypatch):
    spool, write = Spool(tmp_path / "tracking"), os.write
    spool.append("start", **START, uri="")

    def full(handle, content):
        if len(content) < 40:
            raise OSError(28, "No space left on device")
        return write(handle, content[: len(content) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        spool.add_metrics({"loss": 1.0}, 1)
        assert spool.write_error.errno == 28
    spool.add_metrics({"loss": 2.0}, 2)
    assert spool.write_error is None
    assert [event.get("step") for _, event in spool.read(0)] == [None, 1, 2]
    spool.close()


OLD_SPOOL = """
{"kind": "start", "time": 1, "id": "abc", "name": "run", "params": {"trainer.clip": "1.0"}, "tags": {"loss": "vpred"}, "uri": "", "experiment": "test", "artifacts": null}
{"kind": "metrics", "time": 2, "step": 10, "values": {"loss": 0.5}}
{"kind": "picture", "time": 3, "name": "samples/x", "step": 10, "file": "samples~x+step+10+timestamp+3+id.png"}
{"kind": "resume", "time": 4, "step": 10, "steps": "10", "changes": ["trainer.steps: 10 -> 20"]}
{"kind": "describe", "time": 5, "text": "**score 1**", "pictures": ["x.png"]}
{"kind": "finish", "time": 6, "status": "FINISHED"}
"""  # noqa: E501
"""As 0de1f9a wrote it."""


def test_spool_of_0de1f9a_is_continued_and_delivered(tmp_path, monkeypatch):
    folder = tmp_path / "tracking"
    (folder / "files").mkdir(parents=True)
    (folder / "events.jsonl").write_text(OLD_SPOOL.lstrip())
    Image.new("L", (4, 4)).save(folder / "files" / "samples~x+step+10+timestamp+3+id.png")

    spool = Spool(folder)
    spool.add_image("samples/x", Image.new("L", (4, 4)), 10)  # of a step that is there already
    assert [event["kind"] for _, event in spool.read(0)].count("image") == 1
    spool.close()

    monkeypatch.chdir(tmp_path)  # where MLflow puts artifacts
    deliver_spool(folder, f"sqlite:///{tmp_path / 'x.db'}")
    client = make_client(f"sqlite:///{tmp_path / 'x.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"loss": 0.5}
    assert run.data.params == {"trainer.clip": "1.0"}
    assert run.data.tags["ztsnr.changed.10"] == "trainer.steps: 10 -> 20"
    assert run.data.tags["mlflow.note.content"].startswith("**score 1**\n\n![x.png](get-artifact?path=x.png&")
    assert len(client.list_artifacts(run.info.run_id, "images")) == 2
    assert not list((folder / "files").iterdir())


def test_unknown_event_is_refused_and_stays(tmp_path):
    spool = Spool(tmp_path / "tracking")
    spool.append("start", **START, uri="")
    spool.append("video", name="x")
    spool.close()
    with pytest.raises(TrackingError, match="an event of the unknown kind 'video'"):
        deliver_spool(tmp_path / "tracking", f"sqlite:///{tmp_path / 'x.db'}")


class Flaky:
    """A client whose calls fail at random, before or after they have done their work."""

    def __init__(self, client, draw):
        self.client, self.draw = client, draw

    def __getattr__(self, name):
        def call(*arguments, **named):
            if self.draw.random() < 0.3:
                raise ConnectionError("before")
            result = getattr(self.client, name)(*arguments, **named)
            if self.draw.random() < 0.3:
                raise ConnectionError("after")
            return result

        return call


@pytest.mark.slow
def test_delivery_to_a_failing_store_sends_everything_once_and_in_order(tmp_path, monkeypatch):
    spool, draw, client = Spool(tmp_path / "tracking"), random.Random(0), make_client(f"sqlite:///{tmp_path / 'x.db'}")
    monkeypatch.setattr("ztsnr.tracking.delivery.create_store", lambda uri: Flaky(client, draw))
    (tmp_path / "x.txt").write_text("x")
    artifacts = START | {"artifacts": (tmp_path / "artifacts").as_uri()}
    spool.append("start", **artifacts, uri="")
    failures = 0
    for part in range(4):
        record(spool, range(1 + 10 * part, 11 + 10 * part))
        spool.append("file", path="x.txt", folder=None)
        spool.append("describe", text=f"part {part}", images=[])
        if part == 3:
            spool.append("finish", status="FINISHED")
        delivery = Delivery(spool, "sqlite://")
        while spool.undelivered_count():
            try:
                delivery.deliver()
            except ConnectionError:
                failures += 1
    assert failures > 10
    (run,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    for key in ("loss", "lr"):
        assert [metric.step for metric in client.get_metric_history(run.info.run_id, key)] == list(range(1, 41))
    assert len(client.list_artifacts(run.info.run_id, "images")) == 2 * 4
    assert run.data.params == {"a": "1"}
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.note.content"].startswith("part 3")
    assert not list((tmp_path / "tracking" / "files").iterdir())
    spool.close()
