import math
import os
import re

import pytest
from PIL import Image

from tests.processes import SERVER, scaled
from ztsnr.config.identity import result_config, tracked_parameters
from ztsnr.config.registry import compose
from ztsnr.core.errors import TrackingError
from ztsnr.tracking.mlflow_tracker import MLflowTracker
from ztsnr.tracking.store import charts_url, make_client
from ztsnr.tracking.sync import deliver_spool

SETTINGS = {"uri": None, "experiment": "test", "flush_seconds": 0.2, "require_server": True, "final_flush_seconds": 1.0}


def tracker(folder, **settings):
    return MLflowTracker(**SETTINGS | {"folder": str(folder)} | settings)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """One run with everything in it, and one that failed."""
    folder = tmp_path_factory.mktemp("record") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        good, bad = tracker(folder), tracker(folder)
    good.check()
    run = good.start("good", {f"key{i}": i for i in range(150)}, {"schedule": "ztsnr"}, folder / "good")
    for step in range(1200):
        run.log_metrics({"train/loss": 1 / (step + 1), "train/lr": 0.1}, step)
    run.log_metrics({"odd": math.nan}, 0)
    run.log_image("samples/guidance 2", Image.new("L", (4, 4)), 7)
    (folder / "good" / "x.txt").write_text("text")
    run.log_file(folder / "good" / "x.txt")
    run.describe("**score 1**", ["x.png"])
    run.finish("FINISHED")
    failed = bad.start("bad", {}, {}, folder / "bad")
    failed.finish("FAILED", "ValueError: why")
    client, experiment = good.open_experiment()
    runs = client.search_runs([experiment.experiment_id])
    return good, client, {run.info.run_name: run for run in runs}


def test_record_has_everything_in_order_and_in_one_folder(recorded):
    good, client, runs = recorded
    run = runs["good"]
    assert run.info.status == "FINISHED"
    assert run.data.params == {f"key{i}": str(i) for i in range(150)}
    assert run.data.tags["schedule"] == "ztsnr"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [metric.step for metric in history] == list(range(1200))
    assert history[9].value == pytest.approx(0.1)
    assert math.isnan(run.data.metrics["odd"])
    assert {entry.path for entry in client.list_artifacts(run.info.run_id)} == {"images", "x.txt"}
    assert f"get-artifact?path=x.png&run_uuid={run.info.run_id}" in run.data.tags["mlflow.note.content"]
    assert runs["bad"].info.status == "FAILED"
    assert runs["bad"].data.tags["mlflow.note.content"].startswith("ValueError: why")
    assert (good.folder / "mlflow.db").is_file()
    _, experiment = good.open_experiment()
    location = client.get_experiment(experiment.experiment_id).artifact_location
    assert location == (good.folder / "mlflow-artifacts").as_uri()


def test_charts_url_opens_the_charts_of_the_experiment(recorded):
    good, _, _ = recorded
    _, experiment = good.open_experiment()
    url = good.charts_url("http://127.0.0.1:1/")
    assert url == charts_url("http://127.0.0.1:1", experiment.experiment_id)
    assert "workflowType=machine_learning&compareRunsMode=CHART" in url
    assert good.open_hint() == f"python -m ztsnr.ui tracking.folder={good.folder}"


def record_one(folder, name):
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    store = tracker(folder, final_flush_seconds=60.0)
    store.check()
    run = store.start(name, {}, {}, folder / name)
    run.log_metrics({"x": 1.0}, 0)
    run.finish("FINISHED")


@pytest.mark.slow
def test_processes_that_start_together_on_an_empty_store_all_succeed(tmp_path):
    started = [SERVER.Process(target=record_one, args=(tmp_path, str(name))) for name in range(8)]
    for process in started:
        process.start()
    for process in started:
        process.join(scaled(200))
    assert [process.exitcode for process in started] == [0] * 8
    client = make_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert sorted(run.info.run_name for run in runs) == [str(name) for name in range(8)]
    assert {run.data.metrics["x"] for run in runs} == {1.0}


def test_undeliverable_record_waits_and_says_how_to_deliver_it(tmp_path):
    (tmp_path / "broken.db").write_text("this is no database" * 100)
    broken = tracker(tmp_path, uri=f"sqlite:///{tmp_path / 'broken.db'}", final_flush_seconds=0.0)
    run = broken.start("run", {}, {}, tmp_path)
    for step in range(10):
        run.log_metrics({"loss": 1.0}, step)
    run.finish("FINISHED")
    assert re.search(r"12 events of the record wait, .*broken\.db failed.* -m ztsnr\.sync ", run.undelivered())
    with pytest.raises(TrackingError, match="12 events wait"):
        deliver_spool(tmp_path / "tracking", None)
    assert deliver_spool(tmp_path / "tracking", f"sqlite:///{tmp_path / 'sound.db'}").startswith("12 events delivered")
    client = make_client(f"sqlite:///{tmp_path / 'sound.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"uri": "http://127.0.0.1:9"}, r"tracking\.uri=http://127\.0\.0\.1:9 does not answer"),
        ({"uri": "file:///tmp/x"}, r"tracking\.uri must begin with sqlite:///"),
        ({"folder": "/proc/nowhere/x"}, "cannot be created"),
    ],
)
def test_check_refuses_a_store_that_cannot_be_used(tmp_path, monkeypatch, settings, message):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(TrackingError, match=message):
        tracker(**{"folder": tmp_path} | settings).check()


def test_charts_url_of_an_empty_folder_is_refused_and_creates_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(TrackingError, match="has no experiment 'test'"):
        tracker(tmp_path).charts_url("http://127.0.0.1:1")
    assert not list(tmp_path.iterdir())


def test_uri_comes_from_the_environment_unless_configured(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    assert tracker(tmp_path).uri == "http://there"
    assert tracker(tmp_path, uri="sqlite:///x.db").uri == "sqlite:///x.db"


def test_params_are_flat_and_config_is_resolved_and_neither_has_credentials():
    composed = compose("loss=novelai_v3", "tracking.uri=http://user:secret@host")
    flat, config = tracked_parameters(composed), result_config(composed)
    assert "${" not in str(config)
    assert "secret" not in str(config)
    assert config["schedule"]["density"]["table"] == config["schedule"]["table"]
    assert flat["target"] == "v"
    assert flat["weighting"] == "min_snr"
    assert flat["weighting.gamma"] == 5.0
    assert flat["schedule.table.terminal"] == math.inf
    assert flat["trainer.noise_seed"] == 0
    assert not any(key.startswith(("schedule.density.table", "objective", "tracking")) for key in flat)
