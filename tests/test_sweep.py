"""Sweeps by the command line: one record, what goes wrong stays in its run, and resume."""

import json
import shutil

import pytest

from tests.test_commands import SMALL, run
from ztsnr.errors import ConfigError
from ztsnr.record import science
from ztsnr.registry import compose
from ztsnr.sweep import axes, digest, find_sweep
from ztsnr.training.tracking import make_client

SWEPT = ["-m", "schedule=ztsnr,laplace", "loss=eps,vpred", "trainer.batch_size=32,33", "trainer.accumulate=2", *SMALL]


def results_in(folder):
    files = sorted(folder.glob("runs/*/*-sweep/*/result.json"), key=lambda file: int(file.parent.name))
    return [json.loads(file.read_text()) for file in files]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return folder, run(folder, "train", *SWEPT, code=1)


def test_axes_are_what_is_swept():
    assert axes(["seed=range(0,3)", "loss=eps,vpred", "trainer.steps=5"]) == {
        "seed": ["0", "1", "2"],
        "loss": ["eps", "vpred"],
    }


def test_the_digest_is_of_what_changes_a_result():
    one = digest(science(compose("seed=1")))
    assert one == digest(science(compose("seed=1", "trainer.log_every=7", "tracking=none")))
    assert one != digest(science(compose("seed=2")))
    assert one != digest(science(compose("seed=1", "weighting=min_snr")))


@pytest.mark.slow
def test_what_goes_wrong_stays_in_its_run(swept):
    folder, done = swept
    outcomes = {result["name"]: result["outcome"] for result in results_in(folder)}
    assert outcomes == {
        f"{schedule} {loss} trainer.batch_size={size}": outcome
        for schedule, loss, size, outcome in [
            ("ztsnr", "eps", 32, "incompatible"),
            ("ztsnr", "eps", 33, "incompatible"),
            ("ztsnr", "vpred", 32, "finished"),
            ("ztsnr", "vpred", 33, "failed"),
            ("laplace", "eps", 32, "finished"),
            ("laplace", "eps", 33, "failed"),
            ("laplace", "vpred", 32, "finished"),
            ("laplace", "vpred", 33, "failed"),
        ]
    }
    assert "3 failed" in done.stderr
    told = {result["message"] for result in results_in(folder) if result["outcome"] == "failed"}
    assert told == {"trainer.batch_size must be a multiple of trainer.accumulate=2, got 33"}
    assert "compare python -m ztsnr.ui sweep=" in done.stderr


@pytest.mark.slow
def test_the_record_holds_every_run_and_a_summary(swept):
    client = make_client(f"sqlite:///{swept[0] / 'runs' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("ztsnr").experiment_id])
    assert len({run.data.tags["ztsnr.sweep"] for run in runs}) == 1
    (summary,) = [run for run in runs if run.data.tags["ztsnr.role"] == "sweep"]
    assert summary.data.metrics == {"runs/finished": 3, "runs/incompatible": 2, "runs/failed": 3}
    assert "laplace vpred trainer.batch_size=32" in summary.data.tags["mlflow.note.content"]
    statuses = sorted(run.info.status for run in runs)
    assert statuses == ["FAILED"] * 3 + ["FINISHED"] * 6


@pytest.mark.slow
def test_resume_runs_only_what_has_not_finished(swept, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(swept[0], folder)
    before = {result["name"]: result["seconds"] for result in results_in(folder)}
    lost = folder / next(folder.glob("runs/*/*-sweep/2"))
    shutil.rmtree(lost)
    done = run(folder, "train", *SWEPT, "sweep.resume=true", code=1)
    again = {result["name"]: result for result in results_in(folder)}
    assert again.keys() == before.keys()
    assert again["ztsnr vpred trainer.batch_size=32"]["outcome"] == "finished"
    assert done.stderr.count("finished earlier") == 2
    assert done.stderr.count("incompatible earlier") == 2


def test_resuming_what_was_never_started_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="finds no sweep below"):
        find_sweep(tmp_path, "loss=eps,vpred")
