"""The commands as a user gives them: in a process and a folder of their own."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import yaml
from PIL import Image
from safetensors import safe_open

from tests.helpers import GROUPS, ROOT, write_plug_in
from tests.photos import SMALL as PHOTOS
from tests.photos import make_photos
from tests.processes import SMALL_JOB, run, scaled
from tests.tiny import tiny_sdxl
from ztsnr.config.registry import options

TRAIN = ["trainer.steps=2", "samples=none", "tracking=none", "validation.sigmas=[1.0]", "validation.samples=4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    return folder, run(folder, "train", *SMALL_JOB, "schedule=ztsnr", "loss=vpred")


@pytest.mark.slow
def test_training_writes_weights_config_figures_and_a_record(trained):
    folder, result = trained
    assert result.stdout.startswith("score ")
    assert "compare python -m ztsnr.ui" in result.stderr
    (run_folder,) = (folder / "runs").glob("*/*-ztsnr-vpred-s0")
    names = {entry.name for entry in run_folder.iterdir()}
    assert {"final.safetensors", "config.yaml", "objective.png", "validation.png", "samples_guidance_2.png"} <= names
    assert {entry.name for entry in folder.iterdir()} == {"runs"}
    with safe_open(run_folder / "final.safetensors", "pt") as file:
        assert {key.split(".")[0] for key in file.keys()} == {"raw", "ema"}  # noqa: SIM118 (it is not iterable)


@pytest.mark.slow
def test_sampling_classes_needs_only_the_checkpoint(trained, tmp_path):
    (weights,) = trained[0].glob("runs/*/*/final.safetensors")
    copy = tmp_path / "copy.safetensors"
    shutil.copy(weights, copy)
    result = run(tmp_path, "sample", f"checkpoint={copy}", "sampler=heun", "steps=3", "classes=[3,1]", "columns=5")
    assert result.stdout.strip() == "samples.png"
    assert Image.open(tmp_path / "samples.png").size == (5 * 52 + 4, 2 * 52 + 4)
    refusal = run(tmp_path, "sample", f"checkpoint={copy}", "prompts=[a house]", code=2)
    assert "which takes classes. Use classes=[...]" in refusal.stderr


@pytest.mark.slow
def test_two_processes_write_one_run_with_the_score_of_one(trained, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, "-m", "ztsnr.train", *SMALL_JOB, "schedule=ztsnr", "loss=vpred", "tracking=none"]
    result = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=scaled(300))
    assert result.stdout == trained[1].stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["runs"]
    assert len(list(tmp_path.glob("runs/*/*"))) == 1


@pytest.mark.slow
def test_a_users_option_trains_and_samples(tmp_path):
    folder = write_plug_in(tmp_path)
    config_dir = ["--config-dir", str(folder)]
    run(tmp_path, "train", *config_dir, *SMALL_JOB, "weighting=my_min_snr", "tracking=none", path=[tmp_path])
    (weights,) = tmp_path.glob("runs/*/*/final.safetensors")
    run(tmp_path, "sample", *config_dir, f"checkpoint={weights}", "steps=2", path=[tmp_path])
    refusal = run(tmp_path, "sample", f"checkpoint={weights}", path=[tmp_path], code=2)
    assert "names the class 'my_plug_in.MyMinSNR'" in refusal.stderr


@pytest.mark.slow
def test_images_are_cached_and_then_trained(tmp_path):
    make_photos(tmp_path / "photos")
    model = ["model=sdxl", f"model.pretrained={tiny_sdxl()}", "data=folder", "data.root=photos", *PHOTOS]
    report = run(tmp_path, "cache", *model)
    assert "16 files, 16 images used" in report.stdout
    result = run(tmp_path, "train", *model, "data.refresh=false", *TRAIN)
    assert result.stdout.startswith("score ")
    (weights,) = tmp_path.glob("runs/*/*/final.safetensors")
    assert {"plan.txt", "latents.json"} <= {entry.name for entry in weights.parent.iterdir()}
    with safe_open(weights, "pt") as file:
        metadata = file.metadata()
    assert set(json.loads(metadata["ztsnr.facts"])["latents"]) == {"mean", "std"}
    for config in (json.loads(metadata["ztsnr.config"]), yaml.safe_load((weights.parent / "config.yaml").read_text())):
        assert not {"root", "cache", "local_cache"} & set(config["data"])
    refusal = run(tmp_path, "cache", "model=mlp", "data=digits", code=2)
    assert "has nothing to cache" in refusal.stderr


@pytest.mark.slow
def test_a_run_resumes_at_a_higher_resolution_with_the_scale_of_its_latents(tmp_path):
    make_photos(tmp_path / "photos")
    model = ["model=sdxl", f"model.pretrained={tiny_sdxl()}", "model/train=lora", "data=folder", "data.root=photos"]
    model += ["data.latent_normalisation=channel", "trainer.checkpoint.every=2", "hydra.run.dir=run"]
    run(tmp_path, "train", *model, *PHOTOS, *TRAIN)
    cache, plan, moments = tmp_path / "cache", tmp_path / "run" / "plan.txt", tmp_path / "run" / "latents.json"
    scale = json.loads(moments.read_text())
    assert scale["latents"] == scale["measured"]
    first_plan, latents = plan.read_text(), {path.name for path in (cache / "latents").iterdir()}
    (texts,) = (cache / "texts").iterdir()
    larger = ["resume=run", "data.sizes.resolution=96", "trainer.steps=4"]
    assert "data.sizes.resolution: 64 -> 96" in run(tmp_path, "train", *larger, code=2).stderr
    result = run(tmp_path, "train", *larger, "allow_changes=true")
    assert "resumed after step 2" in result.stderr
    assert "64x64" in first_plan
    assert "96x96" in plan.read_text()
    assert latents < {path.name for path in (cache / "latents").iterdir()}
    assert list((cache / "texts").iterdir()) == [texts]
    with safe_open(tmp_path / "run" / "final.safetensors", "pt") as file:
        assert json.loads(file.metadata()["ztsnr.config"])["data"]["sizes"]["resolution"] == 96
        assert json.loads(file.metadata()["ztsnr.facts"])["latents"] == scale["latents"]  # x0 keeps its scale
    assert json.loads(moments.read_text())["measured"] != scale["measured"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("train", ["schedule=laplace_ztsnr", "loss=eps"], "target=eps cannot be used at sigma = inf"),
        ("train", ["schedule=foo"], "Could not find 'schedule/foo'"),
        ("train", ["trainer.stepz=3"], "There is no key 'trainer.stepz'. Did you mean trainer.steps"),
        ("train", ["trainer.steps=abc"], "trainer.steps must be an integer of 1 or more, got 'abc'"),
        ("train", ["schedule/table=sdxl"], "schedule.table.terminal"),
        ("sample", [], "checkpoint must be given: checkpoint=VALUE"),
        ("sample", ["checkpoint=absent"], "checkpoint=absent is not a file"),
        ("sample", ["checkpoint=absent", "output=no/x.png"], "output must be"),
        ("preview", ["output=no/x.png"], "output must be a .png"),
        ("preview", ["schedule=laplace,nonsense"], "Could not find 'schedule/nonsense'"),
    ],
)
def test_a_mistake_of_the_user_gives_one_message_and_no_traceback(tmp_path, module, arguments, message):
    result = run(tmp_path, module, *arguments, code=2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.db"))


@pytest.mark.slow
def test_ui_refuses_a_used_port(trained):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = run(trained[0], "ui", f"port={port}", code=2)
    assert f"port={port} cannot be used" in result.stderr


@pytest.mark.slow
def test_help_lists_every_group_without_loading_torch(tmp_path):
    code = "import sys, runpy; sys.argv = ['x', '--help']\ntry: runpy.run_module('ztsnr.train', run_name='__main__')\n"
    code += "except SystemExit: pass\nassert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=scaled(100))
    for group in GROUPS:
        assert f"\n{group}: {', '.join(options(group))}\n" in result.stdout


@pytest.mark.slow
def test_the_wheel_runs_from_any_folder(tmp_path):
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".git", ".venv", "runs", "*.egg-info", "__pycache__", "build")
    shutil.copytree(ROOT, source, ignore=ignore)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", tmp_path / "site", source], check=True, capture_output=True, timeout=scaled(300))
    shutil.rmtree(source)
    empty = tmp_path / "empty"
    empty.mkdir()
    code = (
        "import runpy, sys, ztsnr.config.registry as r; print(r.conf_folder())\n"
        f"sys.argv[1:] = {[*SMALL_JOB, 'tracking=none']}\n"
    )
    command = [sys.executable, "-c", code + "runpy.run_module('ztsnr.train', run_name='__main__')"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    output = subprocess.run(command, cwd=empty, env=environment, check=True, capture_output=True, text=True).stdout
    assert output.startswith(f"{tmp_path / 'site' / 'ztsnr' / 'conf'}\nscore ")
