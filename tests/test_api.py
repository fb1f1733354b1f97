"""The package from Python: what `import ztsnr` offers."""

import re
import subprocess
import sys

import pytest
import torch
from PIL import Image

import ztsnr
from tests.helpers import ROOT
from ztsnr.core.errors import ConfigError

SMALL = ("trainer=smoke", "trainer.steps=3", "model.width=16", "samples.steps=2", "samples.columns=1")
MINIMAL = ("quality=none", "tracking=none")


@pytest.fixture(scope="module")
def result():
    return ztsnr.fit("schedule=ztsnr", "loss=vpred", *SMALL, *MINIMAL)


@pytest.mark.slow
def test_fit_returns_score_networks_and_samples(result):
    assert result.step == 3
    assert 0 < result.score < 10
    assert result.networks.keys() >= {"raw"}
    assert not result.best_network.training
    assert all(isinstance(image, Image.Image) for image in result.images.values())


@pytest.mark.slow
def test_fit_repeats_itself_and_trains_a_network_of_the_users_in_place(result):
    torch.manual_seed(0)
    network = ztsnr.build(ztsnr.compose(*SMALL), "model")
    before = [parameter.clone() for parameter in network.parameters()]
    rerun = ztsnr.fit("schedule=ztsnr", "loss=vpred", *SMALL, *MINIMAL, network=network)
    assert rerun.score == result.score
    assert rerun.networks["raw"] is network
    assert any(not torch.equal(old, new.cpu()) for old, new in zip(before, network.parameters(), strict=True))


@pytest.mark.slow
def test_fit_takes_data_and_an_objective_of_the_users(result):
    data = ztsnr.make("data", "digits", held_out=0.25)
    objective = ztsnr.build(ztsnr.compose("loss=x0"), "objective")
    custom = ztsnr.fit(*SMALL, *MINIMAL, data=data, objective=objective)
    assert custom.score != result.score


def test_fit_refuses_bad_values_and_old_keys():
    with pytest.raises(ConfigError, match=r"trainer\.steps must be an integer"):
        ztsnr.fit("trainer.steps=abc")
    with pytest.raises(ConfigError, match=r"trainer\.clip is now trainer\.max_grad_norm"):
        ztsnr.fit("trainer.clip=1")


def test_an_old_checkpoint_loads_and_samples_by_path_and_by_model():
    path = ROOT / "tests" / "fixtures" / "0de1f9a" / "run" / "final.safetensors"
    loaded = ztsnr.load(path)
    objective, _, facts = loaded
    assert objective.target == ztsnr.make("target", "v")
    assert facts.step == 30
    options = {"classes": [3, 1], "steps": 2, "columns": 2, "sampler": "heun"}
    by_path, by_model = ztsnr.sample(path, **options), ztsnr.sample(loaded, **options)
    assert by_path.size[0] < by_path.size[1] * 2
    assert by_path.tobytes() == by_model.tobytes()
    with pytest.raises(ConfigError, match="no 'clases'"):
        ztsnr.sample(loaded, clases=[3])


def test_importing_the_command_leaves_sample_callable():
    import ztsnr.sample

    with pytest.raises(ConfigError, match="no 'clases'"):
        ztsnr.sample("x", clases=[3])


def test_every_public_name_is_there_and_no_other():
    assert set(ztsnr.__all__) == ztsnr.MODULES.keys()
    for name in ztsnr.__all__:
        assert callable(getattr(ztsnr, name))
        assert getattr(ztsnr, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = ztsnr.fitt


def test_importing_the_package_imports_nothing_that_takes_time():
    code = "import sys, ztsnr; assert not {'torch', 'hydra', 'omegaconf', 'mlflow'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=100)


@pytest.mark.slow
def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(example.splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    exec(example.replace("trainer.steps=300", "trainer.steps=2"), {})
    assert list(tmp_path.glob("*.png"))
