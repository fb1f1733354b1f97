"""Processes that are really killed, signalled and out of disk, and a tracking server that is really gone."""

import json
import os
import resource
import signal
import subprocess
import time

import pytest
import torch

import ztsnr.sync
import ztsnr.train
from tests.helpers import load_script
from tests.processes import MLflowServer, wait_until
from ztsnr.checkpoints.state_file import file_of, read_state, saved_steps
from ztsnr.tracking.store import make_client
from ztsnr.training.signals import SAME_SIGNAL_SECONDS, StopSignals

kill_runs = load_script("kill_runs")
SHORT = (*kill_runs.SHORT, "model.width=16", "trainer.steps=200", "trainer.validate_every=20", "quality=none")
SHORT += ("trainer.checkpoint.every=10", "trainer.log_every=10", "hydra.run.dir=.")
pytestmark = pytest.mark.slow


def start(folder, *arguments, **options):
    return kill_runs.start(folder, *SHORT, *arguments, **options)


def output(folder):
    return (folder / "output.log").read_text()


def test_runs_killed_at_random_end_with_the_same_weights_and_record(tmp_path):
    kill_counts = kill_runs.survive(tmp_path, kills=3, seed=0)
    assert sum(kill_counts.values()) == 3


def test_run_stopped_by_each_signal_is_saved_and_resumes_to_the_same_weights(tmp_path):
    assert torch.get_num_threads() == 1  # so that these runs are equal to the bit
    uninterrupted_run = tmp_path / "uninterrupted"
    stopped_run = tmp_path / "stopped"
    assert kill_runs.end_of(start(uninterrupted_run, "tracking=none")) == 0, output(uninterrupted_run)
    for times, number in enumerate((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)):
        pid = start(stopped_run, "trainer.checkpoint.every=null")
        wait_until(lambda times=times: output(stopped_run).count("validation score") > times)
        os.kill(pid, number)
        assert kill_runs.end_of(pid) == 75, output(stopped_run)
        step = saved_steps(stopped_run / "checkpoints")[-1]
        assert f"{number.name} stopped the run after step {step}; its state is saved" in output(stopped_run)
        assert kill_runs.record(stopped_run / "runs", stopped_run)["status"] == "KILLED"
    assert kill_runs.end_of(start(stopped_run)) == 0, output(stopped_run)
    assert f"resumed after step {step}" in output(stopped_run)
    assert "Traceback" not in output(stopped_run)
    assert kill_runs.record(stopped_run / "runs", stopped_run)["status"] == "FINISHED"
    assert kill_runs.content(stopped_run)[1] == kill_runs.content(uninterrupted_run)[1]


def deaf():
    StopSignals().install()
    print("listening", flush=True)
    time.sleep(60)


def test_second_signal_kills_the_run_unless_it_follows_within_a_second(tmp_path):
    pid = kill_runs.start(tmp_path, program=deaf)
    wait_until(lambda: "listening" in output(tmp_path))
    os.kill(pid, signal.SIGINT)
    time.sleep(0.1)
    os.kill(pid, signal.SIGTERM)
    time.sleep(SAME_SIGNAL_SECONDS + 0.1)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    os.kill(pid, signal.SIGTERM)
    assert kill_runs.end_of(pid) == -signal.SIGTERM


def test_interrupted_sweep_resumes_its_run_from_the_checkpoint(tmp_path):
    command = ("-m", "seed=0,1", *SHORT[:-1])
    pid = kill_runs.start(tmp_path, *command)
    wait_until(lambda: list(tmp_path.glob("runs/*/*/1/checkpoints/step_*")))
    os.kill(pid, signal.SIGINT)
    assert kill_runs.end_of(pid) == 75, output(tmp_path)
    (sweep,) = tmp_path.glob("runs/*/*-sweep")
    outcomes = [json.loads((sweep / run / "result.json").read_text())["outcome"] for run in ("0", "1")]
    assert outcomes == ["finished", "interrupted"]
    assert kill_runs.end_of(kill_runs.start(tmp_path, *command, "sweep.resume=true")) == 0, output(tmp_path)
    assert "seed=0: finished earlier" in output(tmp_path)
    assert output(tmp_path).count("resumed after step") == 1
    client = make_client(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("ztsnr").experiment_id], "tags.`ztsnr.role` = 'run'")
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    assert all("ztsnr.outcome" not in run.data.tags for run in runs)


def test_resume_needs_only_a_runs_folder_or_a_state(tmp_path):
    pid = start(tmp_path / "first", "schedule=laplace", "loss=eps")
    wait_until(lambda: saved_steps(tmp_path / "first" / "checkpoints"))
    os.kill(pid, signal.SIGTERM)
    kill_runs.end_of(pid)
    assert kill_runs.end_of(kill_runs.start(tmp_path, "resume=first")) == 0, output(tmp_path)
    assert (tmp_path / "first" / "final.safetensors").is_file()
    newest = file_of(tmp_path / "first" / "checkpoints", 200)
    target = read_state(newest).facts["config"]["target"]["_class_"]
    assert target == "target.eps"
    branch = ("trainer.steps=210", "allow_changes=true", "hydra.run.dir=branch", f"resume={newest}")
    assert kill_runs.end_of(kill_runs.start(tmp_path, *branch)) == 0, output(tmp_path)
    assert saved_steps(tmp_path / "branch" / "checkpoints") == [210]
    client = make_client(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("ztsnr").experiment_id])
    assert run.data.tags["ztsnr.resumed_from"]
    assert "trainer.steps: 200 -> 210" in run.data.tags["ztsnr.changed.200"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for one checkpoint; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("on_save_error", ["stop", "continue"])
def test_full_disk_leaves_the_previous_checkpoint(small_disk, tmp_path, on_save_error):
    def train_on_full_disk():
        (small_disk / "checkpoints").mkdir()
        os.symlink(small_disk / "checkpoints", "checkpoints")
        ztsnr.train.main()

    words = ("model.width=32", "trainer.steps=20", f"trainer.checkpoint.on_save_error={on_save_error}", "tracking=none")
    code = kill_runs.end_of(start(tmp_path, *words, "trainer.checkpoint.keep=5", program=train_on_full_disk))
    log = output(tmp_path)
    assert "could not be written: No space left on device" in log
    assert " MB are free" in log
    assert code == (2 if on_save_error == "stop" else 0)
    (*_, step) = saved_steps(small_disk / "checkpoints")
    assert read_state(file_of(small_disk / "checkpoints", step)).step == step
    assert not list((small_disk / "checkpoints").glob(".*"))


def test_file_size_limit_stops_the_run_and_names_the_remedy(tmp_path):
    def train_with_limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        ztsnr.train.main()

    assert kill_runs.end_of(start(tmp_path, "tracking=none", program=train_with_limit)) == 2
    assert "File too large" in output(tmp_path)
    assert "on_save_error=continue" in output(tmp_path)


@pytest.fixture
def server(tmp_path):
    server = MLflowServer(tmp_path)
    server.start()
    yield server
    server.kill()


def delivered(folder):
    file = folder / "tracking" / "delivered.json"
    return json.loads(file.read_text()) if file.exists() else {}


def metrics_of(client, folder, key="train/loss"):
    run_id = delivered(folder)["run_id"]
    return client.get_run(run_id), [entry.step for entry in client.get_metric_history(run_id, key)]


def test_server_that_dies_only_delays_the_record(server, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    to_server = (f"tracking.uri={server.uri}", "tracking.require_server=false", "tracking.flush_seconds=0.2")
    pid = start(one, *to_server, "tracking.final_flush_seconds=120", "trainer.steps=1000")
    wait_until(
        lambda: (
            (one / "tracking" / "delivered.json").exists()
            and "run_id" in (one / "tracking" / "delivered.json").read_text()
        )
    )
    server.kill()
    assert kill_runs.end_of(start(two, *to_server, "tracking.final_flush_seconds=0")) == 0, output(two)
    assert f"events of the record wait, since tracking.uri={server.uri} failed" in output(two)
    server.start()
    assert kill_runs.end_of(pid) == 0, output(one)
    assert "events of the record wait" not in output(one)
    assert kill_runs.end_of(kill_runs.start(tmp_path, "two", program=ztsnr.sync.main)) == 0, output(tmp_path)
    assert "events delivered to http://127" in output(tmp_path)
    client = make_client(server.uri)
    for folder, steps in ((one, 1000), (two, 200)):
        run, logged_steps = metrics_of(client, folder)
        assert logged_steps == list(range(10, steps + 1, 10))
        assert run.info.status == "FINISHED"
        assert {entry.path for entry in client.list_artifacts(run.info.run_id)} >= {"final.safetensors", "images"}
    assert len(client.search_runs([run.info.experiment_id])) == 2
    assert kill_runs.end_of(kill_runs.start(tmp_path, "two", program=ztsnr.sync.main)) == 0
    assert output(tmp_path).endswith("nothing waits\n")
