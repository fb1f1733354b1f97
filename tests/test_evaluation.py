import math

import pytest
import torch
from torch import nn

from ztsnr.analysis.plots import objective_figure, validation_figure
from ztsnr.analysis.summary import Summary
from ztsnr.config.registry import build, compose
from ztsnr.core.errors import ConfigError
from ztsnr.core.noise import sigma_vp
from ztsnr.core.sampling import Euler
from ztsnr.evaluation.samples import SampleGrid, tile_images
from ztsnr.evaluation.validation import Validation

SIGMAS = [0.1, 1.0, 10.0]
LEARNED = ("schedule=laplace_ztsnr", "weighting=uncertainty")


@pytest.fixture(scope="module")
def run():
    composed = compose("loss=x0")
    return build(composed.objective), build(composed.data)


class ConstantOutput(nn.Module):
    """Says the same of everything."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))
        self.calls = []

    def forward(self, z, t, label):
        self.calls.append((z, t, label))
        return self.value.expand_as(z)


def validation(**settings):
    return Validation(**{"sigmas": SIGMAS, "samples": 1000, "batch_size": 64, "seed": 0} | settings)


def test_validation_error_of_a_constant_output_is_its_distance_from_the_data(run):
    objective, data = run
    with torch.no_grad():
        errors = validation()(objective, ConstantOutput(0.25), data)
    distance = (data.validation.x0 - 0.25).double().square().mean().item()
    for sigma, error in errors.items():
        share = sigma_vp(torch.tensor(sigma, dtype=torch.float64)).item()
        assert error == pytest.approx(distance / share**2, rel=1e-5)
    assert list(errors) == [*SIGMAS, math.inf]
    assert validation().score(errors) == pytest.approx(sum(errors[sigma] for sigma in SIGMAS) / 3)
    with torch.no_grad():
        asked = validation(samples=10)(build(compose("loss=eps", "schedule=sdxl").objective), ConstantOutput(0), data)
    assert list(asked) == SIGMAS  # eps has no error at inf


def test_validation_uses_the_same_samples_and_noise_for_any_batch_size_and_run(run):
    objective, data = run
    seen = []
    for batch_size in (64, 100):
        torch.manual_seed(batch_size)
        network = ConstantOutput(0)
        with torch.no_grad():
            validation(batch_size=batch_size, samples=100, sigmas=[1.0])(objective, network, data)
        seen.append(torch.cat([z for z, _, _ in network.calls]))
    assert torch.equal(*seen)
    assert len(seen[0]) == 2 * 100  # at inf too


def grid(**settings):
    plain = {"sampler": Euler(), "steps": 3, "guidances": [1.0, 2.0], "rescale": 0.0, "columns": 4, "seed": 0}
    return SampleGrid(**plain | settings)


def test_sample_grid_columns_share_noise_and_guidance_adds_the_null_label(run):
    objective, data = run
    network = ConstantOutput(0)
    drawn = grid().sample(objective, network, data.shape, torch.tensor([7, 3]), 10, 1.0)
    assert drawn.shape == (8, 1, 8, 8)
    z, _, label = network.calls[0]
    assert label.tolist() == [7] * 4 + [3] * 4
    assert torch.equal(z[:4], z[4:])
    assert not torch.equal(z[0], z[1])
    assert torch.equal(drawn, torch.zeros_like(drawn))  # an x0 network that says 0
    grid().sample(objective, guided := ConstantOutput(0), data.shape, torch.tensor([7]), 10, 2.0)
    assert guided.calls[0][2].tolist() == [7] * 4 + [10] * 4


def test_tiled_image_has_the_tiles_in_order():
    x0 = torch.stack([torch.full((1, 8, 8), value) for value in (-1.0, -0.2, 0.2, 1.0)])
    image = tile_images(x0, columns=2, tile=16, gap=2)
    assert image.size == (2 * 18 + 2, 2 * 18 + 2)
    centres = [image.getpixel((2 + 18 * column + 8, 2 + 18 * row + 8)) for row in (0, 1) for column in (0, 1)]
    assert centres == [0, 102, 153, 255]
    assert tile_images(x0.expand(4, 3, 8, 8), columns=4).mode == "RGB"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grid(guidances=[]), "guidances must be a list of numbers"),
        (lambda: grid(guidances=[-1]), "guidances must be a number of at least 0, got -1"),
        (lambda: grid(rescale=2), "rescale must be a number of at least 0 and of at most 1, got 2"),
        (lambda: grid(steps=0), "steps must be an integer of 1 or more, got 0"),
        (lambda: validation(sigmas=[math.inf]), "sigmas must be finite"),
        (lambda: validation(sigmas=[0]), "sigmas must be a number above 0"),
    ],
)
def test_samples_and_validation_reject_bad_settings(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("overrides", [(), ("loss=eps", "schedule=laplace"), LEARNED])
def test_figures_show_every_level_of_the_density(overrides, tmp_path):
    objective = build(compose(*overrides).objective)
    figure = objective_figure({"title": Summary(objective=objective, steps=20)})
    shares, atom = figure.axes[0].patches[0].get_data().values, figure.axes[0].patches[-1].get_height()
    assert sum(shares) + float(atom) == pytest.approx(1, abs=2e-3)
    assert (atom > 0) == (objective.schedule.density.highest == math.inf)
    if not overrides:
        validation_figure({"raw": {1.0: 0.5, math.inf: 0.2}}, "title").savefig(tmp_path / "other.png")
