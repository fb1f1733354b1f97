"""Files that commit 0de1f9a wrote, before modules, classes and keys were renamed, still open and give the same bits."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from tests.processes import run
from ztsnr.checkpoints.load import load_model
from ztsnr.config.identity import accepted_digests, config_digest
from ztsnr.config.names import upgrade
from ztsnr.config.registry import build, compose

FIXTURE = Path(__file__).parent / "fixtures" / "0de1f9a"
EXPECTED = json.loads((FIXTURE / "expected.json").read_text())
DATA = ["model=sdxl", "model.pretrained=pretrained", "data=webdataset", "data.root=pictures/*.tar", "data.cache=cache"]
DATA += ["data.sizes.step=32", "data.sizes.resolution=64", "data.held_out=0.2", "trainer.batch_size=2"]
FOLDER = [word for word in DATA if not word.startswith(("data=", "data.root="))]
FOLDER += ["data=folder", "data.root=/ztsnr-fixture/unpacked"]  # it is not there: only its name is hashed
NO_SERVER = ["tracking.require_server=false", "tracking.final_flush_seconds=0"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the fixture, as the current folder."""
    copy = tmp_path / "files"
    shutil.copytree(FIXTURE, copy)
    monkeypatch.chdir(copy)
    return copy


def hash_tensor(tensor):
    return hashlib.sha256(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def hash_tensors(path):
    with safe_open(path, "pt") as file:
        return {name: hash_tensor(file.get_tensor(name)) for name in sorted(file.keys())}


def score_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()["ztsnr.score"]


def hash_pixels(path):
    with Image.open(path) as image:
        return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "final", "expected"),
    [
        (["resume=part", *NO_SERVER], "part", "run/final.safetensors, and part resumed"),
        (
            ["resume=part/checkpoints/step_00000020.safetensors", "hydra.run.dir=new", *NO_SERVER],
            "new",
            "run/final.safetensors, and part resumed",
        ),
        (["resume=run", *NO_SERVER], "run", "run/final.safetensors, and part resumed"),
        (["resume=adaptive_part"], "adaptive_part", "adaptive/final.safetensors, and adaptive_part resumed"),
    ],
    ids=["folder", "checkpoint", "finished", "learned-density"],
)
def test_a_run_resumes_to_the_same_bits(folder, words, final, expected):
    run(folder, "train", *words)
    file = folder / final / "final.safetensors"
    assert hash_tensors(file) == EXPECTED[expected]["tensors"]
    assert score_of(file) == EXPECTED[expected]["score"]


@pytest.mark.slow
def test_a_lora_resumes_from_its_state_and_cache_to_the_same_bits(folder):
    expected = EXPECTED["lora/final.safetensors, and lora resumed from step 1"]
    (folder / "lora" / "final.safetensors").unlink()
    run(folder, "train", "resume=lora")
    assert hash_tensors(folder / "lora" / "final.safetensors") == expected["tensors"]
    assert score_of(folder / "lora" / "final.safetensors") == expected["score"]


@pytest.mark.slow
def test_a_changed_config_is_refused_in_todays_names(folder):
    result = run(folder, "train", "resume=part", "trainer.max_grad_norm=2", "weighting.features=16", code=2)
    differences = result.stderr.splitlines()[1:3]
    assert [line.strip() for line in differences] == ["trainer.max_grad_norm: 1.0 -> 2", "weighting.features: 8 -> 16"]


@pytest.mark.slow
def test_snapshots_give_the_same_average(folder):
    run(folder, "ema", "run=run", "std=0.08", "output=average.safetensors")
    assert hash_tensors(folder / "average.safetensors") == EXPECTED["ztsnr.ema run=run std=0.08"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["checkpoint=run/final.safetensors", "columns=2", "steps=5", "sampler=heun"],
            "expected/digits.png",
        ),
        (["checkpoint=sdxl/final.safetensors", 'prompts=["a red house"]', "steps=4"], "expected/house.png"),
    ],
    ids=["classes", "prompts"],
)
def test_weights_give_the_same_samples(folder, words, expected):
    run(folder, "sample", *words, "seed=3", "guidance=2", "output=samples.png")
    assert hash_pixels(folder / "samples.png") == EXPECTED[expected]["pixels"]


def test_weights_load_with_the_facts_of_their_file(folder):
    objective, network, facts = load_model("run/final.safetensors")
    assert type(objective.target).__name__ == "V"
    assert not network.training
    assert (facts.step, facts.config["weighting"]["_class_"]) == (30, "weighting.uncertainty")
    assert facts.config["trainer"]["max_grad_norm"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "name"), [("sdxl", "unet"), ("lora", "lora_kohya"), ("lora", "lora_peft")], ids=lambda name: name
)
def test_weights_export_to_the_same_tensors_under_the_same_keys(folder, source, name):
    output = f"{name}.safetensors"
    run(folder, "export", f"checkpoint={source}/final.safetensors", f"output={output}", f"format={name}")
    lines = "".join(f"{key} {value}\n" for key, value in hash_tensors(folder / output).items())
    with safe_open(folder / output, "pt") as file:
        keys = sorted(file.metadata())
    assert keys == EXPECTED["exports"][name]["keys"]
    assert hashlib.sha256(lines.encode()).hexdigest() == EXPECTED["exports"][name]["tensors"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "lora_kohya", "lora_peft"])
def test_doctor_diagnoses_an_export_as_before(folder, name):
    """Of what the file itself says; the words around it may change."""
    result = run(folder, "doctor", f"exports/{name}.safetensors")
    expected = (folder / "expected" / f"doctor_{name}.txt").read_text()
    row = re.compile(r"^trained as +(.*?) *$", re.MULTILINE)
    assert row.search(result.stdout)[1] == row.search(expected)[1]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "kind"), [(DATA, "webdataset"), (FOLDER, "folder")], ids=["webdataset", "folder"])
def test_a_cache_opens_and_gives_the_same_batches(folder, words, kind):
    data = build(compose("data.refresh=false", *words, config="cache"), "data")
    data.prepare()
    expected = EXPECTED["cache"][kind]
    assert len(data.train) == expected["samples to train on"]
    assert data.facts["latents"] == expected["latents"]
    for step, batch in enumerate(expected["batches"]):
        size = data.size(step, data.batch_size)
        x0, cond = data.batch(step, range(size), size)
        hashes = {name: hash_tensor(value) for name, value in sorted(cond.items())}
        assert {"shape": list(x0.shape), "x0": hash_tensor(x0), **hashes} == batch


@pytest.mark.slow
def test_filling_a_full_cache_encodes_nothing(folder):
    def encoded():
        files = [*Path("cache/latents").iterdir(), *Path("cache/texts").iterdir()]
        return {path: path.stat().st_mtime_ns for path in files}

    before = encoded()
    indices = {path.name for path in Path("cache/index").iterdir()}
    run(folder, "cache", *DATA)
    assert encoded() == before
    assert {path.name for path in Path("cache/index").iterdir()} == indices


@pytest.mark.slow
def test_records_are_delivered_and_compared_to_the_same_table(folder):
    uri = "uri=sqlite:///fresh.db"
    run(folder, "sync", "sweeps", uri)
    words = [f"tracking.{uri}", "format=csv", "output=page"]
    result = run(folder, "compare", *words, "sweep=day-one", "attach=false")
    assert result.stdout == (folder / "expected" / "compare.csv").read_text()

    result = run(folder, "compare", f"tracking.{uri}", "format=json", "output=page", "all=true", "baseline=edm")
    table, expected = json.loads(result.stdout), json.loads((folder / "expected" / "compare_all.json").read_text())
    assert table.pop("answer").split(".")[:2] == expected.pop("answer").split(".")[:2]  # up to the words for numbers
    assert table == expected


@pytest.mark.parametrize("number", range(4))
def test_a_config_is_recognised_by_the_digest_of_0de1f9a(number):
    folder = FIXTURE / "sweeps" / "day" / "one-sweep" / str(number)
    config = upgrade(yaml.safe_load((folder / "config.yaml").read_text()))
    digest = json.loads((folder / "result.json").read_text())["config"]
    assert accepted_digests(config) == (config_digest(config), digest)
    config["seed"] += 1
    assert digest not in accepted_digests(config)


@pytest.mark.slow
def test_a_resumed_sweep_does_not_repeat_finished_runs(folder):
    subprocess.run([sys.executable, "store.py", "restore", "mlflow.db", "mlruns"], check=True)
    sweep = folder / "sweeps" / "day" / "one-sweep"
    command = json.loads((sweep / "sweep.json").read_text())["command"].split(" ")
    before = [path.read_text() for path in sorted(sweep.glob("*/result.json"))]
    result = run(folder, "train", "-m", *command, "sweep.resume=true", "hydra.sweep.dir=sweeps/day/new-sweep")
    assert result.stderr.count("finished earlier") == len(before) == 4
    assert [path.read_text() for path in sorted(sweep.glob("*/result.json"))] == before


@pytest.mark.slow
def test_a_database_is_compared_to_the_same_table(folder):
    subprocess.run([sys.executable, "store.py", "restore", "restored.db", "mlruns"], check=True)
    result = run(folder, "compare", "tracking.uri=sqlite:///restored.db", "format=csv", "output=page")
    assert result.stdout == (folder / "expected" / "compare_restored.csv").read_text()
