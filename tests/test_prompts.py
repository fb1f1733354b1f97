"""Previews and the health metric, and whole runs of the tiny SDXL on latents held in memory."""

import math

import pytest
import torch
from torch import nn

from tests.tiny import Latents, composed_for, tiny_sdxl
from ztsnr.config.registry import build
from ztsnr.core.errors import ConfigError
from ztsnr.models.pretrained import load_vae
from ztsnr.tracking.monitor import Monitor


class RecordingMonitor(Monitor):
    def __init__(self):
        self.losses, self.metrics, self.images = [], [], []

    def stepped(self, step, loss, norm, lr):
        self.losses.append(loss)

    def sampled(self, step, images):
        self.images.append(images)

    def measured(self, step, metrics):
        self.metrics.append(metrics)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("a red house\n\n a blue ship at sea \n", encoding="utf-8")
    return path


def fit(file, *overrides):
    composed, monitor = composed_for(file, *overrides), RecordingMonitor()
    torch.manual_seed(0)
    network = build(composed.model)
    parts = {name: build(composed[name]) for name in ("objective", "optimizer", "lr_schedule", "samples", "validation")}
    settings = {"data": Latents(), "monitor": monitor, "network": network}
    return build(composed.trainer).fit(**parts, **settings), monitor


@pytest.mark.slow
def test_prompts_are_sampled_in_a_row_per_prompt_and_a_column_per_noise(file):
    composed = composed_for(file)
    prompts, objective, network = build(composed.samples), build(composed.objective), build(composed.model).eval()
    assert prompts.texts == ["a red house", "a blue ship at sea"]
    with torch.no_grad():
        images = prompts.sample(objective, network, Latents(1).facts["latents"], 3.0)
        sheets = prompts(objective, network, Latents(1))
    assert images.shape == (4, 3, 64, 64)
    assert images.abs().max() <= 1
    assert len({image.sum().item() for image in images}) == 4
    assert sheets.keys() == {5.0}
    assert sheets[5.0].size == (2 * 68 + 4, 2 * 68 + 4)


class FixedEstimate(nn.Module):
    """Of v at sigma = inf, whose ideal is -x0: the noise, or what was asked for."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.device = answer, nn.Parameter(torch.zeros(()))

    def forward(self, z, t, text, pooled, time_ids):
        return -self.answer(z, text)


def test_noise_variance_is_0_if_the_network_ignores_the_noise_and_1_if_it_returns_it(file):
    composed = composed_for(file)
    prompts, objective = build(composed.samples), build(composed.objective)
    with torch.no_grad():
        noisy = prompts.metrics(objective, FixedEstimate(lambda z, _: z), Latents(1))
        still = prompts.metrics(objective, FixedEstimate(lambda z, _: torch.full_like(z, 0.3)), Latents(1))
    assert noisy["health/noise_variance"] == pytest.approx(1, abs=0.15)
    assert still["health/noise_variance"] == 0
    image = load_vae(tiny_sdxl()).decode(torch.full((1, 4, 8, 8), 0.3 / 0.13025)).sample.clamp(-1, 1)
    brightness = (image.mean().item() + 1) / 2
    assert still["health/black"] == still["health/white"] == pytest.approx(brightness, abs=1e-5)


@pytest.mark.slow
def test_full_training_changes_every_weight_and_records_samples_and_metrics(file):
    trained, monitor = fit(file)
    before = build(composed_for(file).model).state_dict()
    after = trained.networks["raw"].state_dict()
    assert all(not torch.equal(after[name], value) for name, value in before.items() if value.numel() > 1)
    assert all(math.isfinite(loss) for loss in monitor.losses)
    assert len(monitor.losses) == 3
    assert monitor.metrics[-1].keys() == {"health/noise_variance", "health/black", "health/white"}
    assert monitor.images[-1].keys() == {5.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", [[], ["trainer.mixed_precision=bf16", "model.train.base=bfloat16"]], ids=["32", "16"]
)
def test_lora_training_changes_only_the_lora(file, overrides):
    trained, _ = fit(file, "model/train=lora", *overrides)
    network = trained.networks["raw"]
    torch.manual_seed(0)
    before = dict(build(composed_for(file, "model/train=lora", *overrides).model).named_parameters())
    changed = {name for name, p in network.named_parameters() if not torch.equal(p.cpu(), before[name])}
    assert changed == network.trainable_names
    assert trained.networks["ema"].state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("samples.size=[64,60]", r"samples\.size must be a height and a width, multiples of 8, got \[64, 60\]"),
        ("samples.size=[64]", r"samples\.size must be a height and a width"),
        ("samples.file=absent.txt", r"samples\.file=absent\.txt cannot be read as text"),
        ("samples.file=/dev/null", r"samples\.file=/dev/null has no prompt\. Write one a line"),
        (
            "samples.prompts=[a]",
            r"set either samples\.file=FILE, with one prompt a line, or samples\.prompts",
        ),
        ("samples.rescale=2", r"samples\.rescale must be a number of at least 0 and of at most 1"),
    ],
)
def test_prompts_with_a_wrong_size_file_or_rescale_are_refused_with_the_key(file, override, message):
    with pytest.raises(ConfigError, match=message):
        build(composed_for(file, override), "samples")


@pytest.mark.parametrize(
    ("prompts", "message"), [("[]", "has no prompt"), ("a", "must be a list of"), ("[1]", "must be a text")]
)
def test_prompts_that_are_not_a_list_of_texts_are_refused(file, prompts, message):
    with pytest.raises(ConfigError, match=rf"samples\.prompts {message}"):
        build(composed_for(file, "samples.file=null", f"samples.prompts={prompts}"), "samples")


def test_prompts_from_a_list_are_used_without_a_file(file):
    prompts = build(composed_for(file, "samples.file=null", "samples.prompts=[a house]").samples)
    assert prompts.texts == ["a house"]


def test_short_negative_is_padded_to_the_windows_of_a_long_prompt(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("x " * 100)
    prompts = build(composed_for(path).samples)
    network = nn.Linear(1, 1)
    cond = prompts.conditions(prompts.embeddings(network)["x " * 99 + "x"], network, 2)
    assert cond["text"].shape == (2, 154, 96)
