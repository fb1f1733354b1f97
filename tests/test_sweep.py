"""Sweeps by the command line: one record, what goes wrong stays in its run, and resume."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from tests.processes import SMALL_JOB, MLflowServer, run, scaled, wait_until
from ztsnr import compare
from ztsnr.config.arguments import Grammar, as_override
from ztsnr.config.identity import config_digest, result_config
from ztsnr.config.registry import build, compose, conf_folder, options
from ztsnr.core.errors import ConfigError, ZtsnrError
from ztsnr.sweeps.axes import swept_axes
from ztsnr.sweeps.files import find_sweep
from ztsnr.tracking.store import make_client

SWEPT = [
    "-m",
    "schedule=ztsnr,laplace",
    "loss=eps,vpred",
    "trainer.batch_size=32,33",
    "trainer.gradient_accumulation_steps=2",
    *SMALL_JOB,
]


def results_in(folder):
    files = sorted(folder.glob("runs/*/*-sweep/*/result.json"), key=lambda file: int(file.parent.name))
    return [json.loads(file.read_text()) | {"at": file.parent.parent.name} for file in files]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return folder, run(folder, "train", *SWEPT, code=1)


def test_swept_keys_are_axes_and_keys_fixed_later_are_not():
    axes = swept_axes(["seed=range(0,3)", "loss=eps,vpred", "trainer.steps=5"])
    assert axes == {"seed": ["0", "1", "2"], "loss": ["eps", "vpred"]}
    assert swept_axes(["loss=eps,vpred", "seed=0,1,2", "seed=5"]) == {"loss": ["eps", "vpred"]}
    assert swept_axes(["optimizer.lr=interval(0.1,1)"]) == {"optimizer.lr": []}


def test_configs_with_one_result_have_one_digest():
    one = config_digest(result_config(compose("seed=1")))
    assert one == config_digest(result_config(compose("seed=1", "trainer.log_every=7", "tracking=none")))
    assert one != config_digest(result_config(compose("seed=2")))
    assert one != config_digest(result_config(compose("seed=1", "weighting=min_snr")))
    folder = "data=folder", "model=sdxl", "model.pretrained=sdxl"
    one = config_digest(result_config(compose(*folder, "data.root=cats")))
    assert one == config_digest(
        result_config(compose(*folder, "data.root=cats", "data.cache=/mnt/other", "data.local_cache=x"))
    )
    assert one != config_digest(result_config(compose(*folder, "data.root=dogs")))


@pytest.mark.slow
def test_a_failing_run_does_not_stop_the_sweep(swept):
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
    messages = {result["message"] for result in results_in(folder) if result["outcome"] == "failed"}
    assert messages == {"trainer.batch_size must be a multiple of trainer.gradient_accumulation_steps=2, got 33"}
    assert "charts  python -m ztsnr.ui sweep=" in done.stderr
    assert "Which schedule, loss and trainer.batch_size?" in done.stderr


@pytest.mark.slow
def test_a_sweep_records_every_run_and_a_summary(swept):
    client = make_client(f"sqlite:///{swept[0] / 'runs' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("ztsnr").experiment_id])
    assert len({run.data.tags["ztsnr.sweep"] for run in runs}) == 1
    (summary,) = [run for run in runs if run.data.tags["ztsnr.role"] == "sweep"]
    assert summary.data.metrics == {"runs/finished": 3, "runs/incompatible": 2, "runs/failed": 3}
    progress = client.get_metric_history(summary.info.run_id, "runs/finished")
    assert [entry.value for entry in progress][-4:] == [2, 3, 3, 3]
    assert "| laplace vpred trainer.batch_size=32 |" in summary.data.tags["mlflow.note.content"]
    assert {entry.path for entry in client.list_artifacts(summary.info.run_id, "comparison")} >= {
        "comparison/index.html",
        "comparison/options.png",
        "comparison/table.csv",
    }
    refused = [run for run in runs if run.data.tags.get("ztsnr.outcome") == "incompatible"]
    assert all(run.data.params["weighting"] == "unit" for run in refused)
    assert json.loads(refused[0].data.tags["ztsnr.axes"]).keys() == {"schedule", "loss", "trainer.batch_size"}
    statuses = sorted(run.info.status for run in runs)
    assert statuses == ["FAILED"] * 3 + ["FINISHED"] * 6


@pytest.mark.slow
def test_a_resumed_sweep_runs_only_unfinished_runs(swept, tmp_path):
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


def test_resuming_a_sweep_that_never_started_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="finds no sweep below"):
        find_sweep(tmp_path, "loss=eps,vpred")


def test_a_sweep_started_with_old_keys_is_found_by_todays_command(tmp_path):
    folder = tmp_path / "day" / "one-sweep"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps({"command": "seed=0,1 trainer.clip=1.0 loss=edm"}))
    assert find_sweep(tmp_path, "seed=0,1 trainer.max_grad_norm=1.0 loss=edm") == folder
    with pytest.raises(ConfigError, match="finds no sweep below"):
        find_sweep(tmp_path, "seed=0,1 trainer.max_grad_norm=2.0 loss=edm")


@pytest.mark.parametrize("study", options("experiments"))
def test_every_study_composes_on_all_its_axes(study):
    build(compose(f"+experiments={study}").objective)
    written = OmegaConf.load(conf_folder() / "experiments" / f"{study}.yaml")
    swept = OmegaConf.select(written, "hydra.sweeper.params") or {}
    assert OmegaConf.select(written, "hydra.mode") == ("MULTIRUN" if swept else None)
    for key, values in swept_axes([f"{key}={value}" for key, value in swept.items()]).items():
        assert len(values) > 1
        for value in values:
            compose(f"+experiments={study}", f"{key}={value}")


@pytest.mark.slow
def test_a_study_has_axes_and_the_command_line_shortens_them(tmp_path):
    words = ["target=v", "weighting=min_snr", "seed=3,4", "trainer.validate_every=4", *SMALL_JOB]
    run(tmp_path, "train", "+experiments=target_x_weighting", *words)
    outcomes = {result["name"]: result["outcome"] for result in results_in(tmp_path)}
    assert outcomes == {"seed=3": "finished", "seed=4": "finished"}


LAUNCHED = ["loss=eps,vpred", "trainer.batch_size=32", "trainer.gradient_accumulation_steps=2", *SMALL_JOB]


def outcomes_of(folder):
    """The scores of the runs that LAUNCHED holds too, without their batches' size."""
    results = [result for result in results_in(folder) if result["outcome"] != "failed"]
    return {result["name"].removesuffix(" trainer.batch_size=32"): result["score"] for result in results}


@pytest.mark.slow
def test_a_launcher_gives_the_scores_of_one_process(swept, tmp_path):
    words = ["-m", "schedule=laplace", *LAUNCHED, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"]
    run(tmp_path, "train", *words)
    launched, serial = outcomes_of(tmp_path), outcomes_of(swept[0])
    assert launched == {"eps": serial["laplace eps"], "vpred": serial["laplace vpred"]}
    client = make_client(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("ztsnr").experiment_id])
    assert len(runs) == 1 + 2
    assert len({run.data.tags["ztsnr.sweep"] for run in runs}) == 1


@pytest.mark.slow
def test_optuna_minimises_the_score(tmp_path):
    search = ["optimizer.lr=tag(log,interval(1e-4,1e-2))", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2"]
    run(tmp_path, "train", "-m", *search, *SMALL_JOB)
    results = results_in(tmp_path)
    assert len({result["name"] for result in results}) == 2
    (sweep,) = tmp_path.glob("runs/*/*-sweep")
    best = OmegaConf.load(sweep / "optimization_results.yaml")
    assert best.best_value == pytest.approx(min(result["score"] for result in results))


@pytest.fixture
def server(tmp_path):
    server = MLflowServer(tmp_path)
    server.start()
    yield server.uri
    server.kill()


@pytest.mark.slow
def test_processes_share_a_tracking_server_and_give_the_scores_of_one(swept, tmp_path, server):
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"tracking.uri={server}"]
    command = [sys.executable, "-m", "ztsnr.train", "-m", "schedule=ztsnr,laplace", *LAUNCHED, *launcher]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=scaled(300))
    assert f"charts  {server}/#/experiments/" in done.stderr
    assert outcomes_of(tmp_path).items() <= outcomes_of(swept[0]).items()
    read = run(tmp_path, "compare", f"tracking.uri={server}", "format=json")
    table = json.loads(read.stdout)
    assert [row["outcome"] for row in table["options"]] == ["", "", "", "incompatible"]
    client = make_client(server)
    runs = client.search_runs([client.get_experiment_by_name("ztsnr").experiment_id])
    (summary,) = [entry for entry in runs if entry.data.tags["ztsnr.role"] == "sweep"]
    assert "comparison/index.html" in {entry.path for entry in client.list_artifacts(summary.info.run_id, "comparison")}


@pytest.mark.slow
def test_a_sweep_killed_in_the_middle_and_resumed_ends_in_the_same_table(tmp_path):
    words = ["-m", "loss=vpred,edm", "seed=0,1", *SMALL_JOB, "trainer.steps=20"]
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    run(undisturbed, "train", *words)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    command = [sys.executable, "-m", "ztsnr.train", *words]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    wait_until(lambda: len(results_in(tmp_path)) >= 2, 200)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= len(results_in(tmp_path)) < 4
    run(tmp_path, "train", *words, "sweep.resume=true")
    tables = [json.loads(run(folder, "compare", "format=json").stdout) for folder in (undisturbed, tmp_path)]
    for table in tables:
        for row in table["options"]:
            row.update(dict.fromkeys(("seconds", "memory_gib")))
    assert tables[0] == tables[1]
    assert [row["seeds"] for row in tables[0]["options"]] == [2, 2]


@pytest.mark.slow
def test_ctrl_c_stops_a_sweep_and_keeps_finished_results(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    command = [sys.executable, "-m", "ztsnr.train", "-m", "seed=0,1", *SMALL_JOB, "trainer.steps=50"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: results_in(tmp_path), 200)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=scaled(100))
    assert process.returncode == 130
    assert "Interrupted." in stderr
    assert results_in(tmp_path)[0]["outcome"] == "finished"
    assert len(results_in(tmp_path)) < 2


def compared(*words):
    """compare, in this process."""
    grammar = Grammar("compare", text_keys=compare.TEXT_KEYS)
    overrides = [as_override(word, grammar) for word in words]
    compare.main.__wrapped__(compose(*overrides, config="compare"))


@pytest.mark.slow
def test_compare_needs_only_the_record(swept, tmp_path, monkeypatch, capsys):
    record = f"tracking.folder={swept[0] / 'runs'}"
    done = run(tmp_path, "compare", record, "output=here", "attach=false", "baseline=laplace eps trainer.batch_size=32")
    assert "Which schedule, loss and trainer.batch_size?" in done.stdout
    assert (tmp_path / "here" / "index.html").is_file()
    assert {file.name for file in (tmp_path / "here").iterdir()} >= {"samples.png", "heat_map.png", "guidance.png"}
    monkeypatch.chdir(tmp_path)
    compared(record, "all=true", "format=json")
    rows = {row["option"]: row for row in json.loads(capsys.readouterr().out)["options"]}
    finished = rows["laplace vpred trainer.batch_size=32"]
    assert math.isfinite(finished["accuracy"])
    assert finished["seconds"] > 0
    assert rows["ztsnr eps trainer.batch_size=32"]["outcome"] == "incompatible"
    assert "multiple of trainer.gradient_accumulation_steps=2" in rows["laplace eps trainer.batch_size=33"]["message"]
    compared(record, "filter=tags.loss = 'vpred'", "format=csv")
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["filter=tags.loss = 'no_such'"], "has no run with tags.loss = 'no_such'"),
        (["filter=nonsense"], "filter was rejected by MLflow"),
        (["sweep=no_such"], "has no run with sweep=no_such"),
        (["baseline=no_such"], "baseline must be one of the options that finished"),
        (["rank_by=beauty"], "rank_by must be one of score, frechet"),
        (["tracking=none"], "tracking must be mlflow"),
        (["output=/proc/nowhere"], "output=/proc/nowhere cannot be written"),
    ],
)
def test_compare_refuses_runs_that_it_cannot_rank(swept, arguments, message):
    record = [] if arguments == ["tracking=none"] else [f"tracking.folder={swept[0] / 'runs'}"]
    with pytest.raises(ZtsnrError, match=re.escape(message)):
        compared(*record, *arguments)
