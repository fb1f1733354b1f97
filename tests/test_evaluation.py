import math

import pytest
import torch
from torch import nn

from ztsnr.errors import ConfigError
from ztsnr.evaluation.plots import objective_figure, validation_figure
from ztsnr.evaluation.samples import SampleGrid, to_picture
from ztsnr.evaluation.summary import Summary
from ztsnr.evaluation.validation import Validation
from ztsnr.noise import sigma_vp
from ztsnr.registry import build, compose
from ztsnr.sampling import Euler

SIGMAS = [0.1, 1.0, 10.0]
LEARNED = ("schedule=laplace_ztsnr", "weighting=uncertainty")


@pytest.fixture(scope="module")
def run():
    composed = compose("loss=x0")
    return build(composed.objective), build(composed.data)


class Answering(nn.Module):
    """Says the same of everything."""

    def __init__(self, answer):
        super().__init__()
        self.answer = nn.Parameter(torch.tensor(float(answer)))
        self.calls = []

    def forward(self, z, t, label):
        self.calls.append((z, t, label))
        return self.answer.expand_as(z)


def validation(**settings):
    return Validation(**{"sigmas": SIGMAS, "samples": 1000, "batch_size": 64, "seed": 0} | settings)


def test_error_of_a_constant_answer_is_its_distance_from_the_data(run):
    objective, data = run
    with torch.no_grad():
        errors = validation()(objective, Answering(0.25), data)
    distance = (data.validation.x0 - 0.25).double().square().mean().item()
    for sigma, error in errors.items():
        share = sigma_vp(torch.tensor(sigma, dtype=torch.float64)).item()
        assert error == pytest.approx(distance / share**2, rel=1e-5)
    assert list(errors) == [*SIGMAS, math.inf]


def test_score_is_the_mean_over_the_finite_levels():
    assert validation().score({0.1: 1.0, 1.0: 2.0, 10.0: 6.0, math.inf: 99.0}) == 3.0


def test_validation_asks_with_the_same_noise_whatever_the_batches_and_the_run(run):
    objective, data = run
    seen = []
    for batch_size in (64, 1000):
        torch.manual_seed(batch_size)
        network = Answering(0)
        with torch.no_grad():
            validation(batch_size=batch_size, sigmas=[1.0])(objective, network, data)
        seen.append(torch.cat([z for z, _, _ in network.calls]))
    assert torch.equal(*seen)


def test_samples_bound_what_is_measured(run):
    network = Answering(0)
    with torch.no_grad():
        validation(samples=10, sigmas=[1.0])(*(run[0], network, run[1]))
    assert {len(z) for z, _, _ in network.calls} == {10}


def test_eps_is_not_asked_at_inf(run):
    objective = build(compose("loss=eps", "schedule=sdxl").objective)
    with torch.no_grad():
        assert list(validation()(objective, Answering(0), run[1])) == SIGMAS


def grid(**settings):
    plain = {"sampler": Euler(), "steps": 3, "guidances": [1.0, 2.0], "rescale": 0.0, "columns": 4, "seed": 0}
    return SampleGrid(**plain | settings)


def test_columns_share_their_noise_and_rows_their_class(run):
    objective, data = run
    network = Answering(0)
    drawn = grid().draw(objective, network, data.shape, torch.tensor([7, 3]), 10, 1.0)
    assert drawn.shape == (8, 1, 8, 8)
    z, _, label = network.calls[0]
    assert label.tolist() == [7] * 4 + [3] * 4
    assert torch.equal(z[:4], z[4:])
    assert not torch.equal(z[0], z[1])
    assert torch.equal(drawn, torch.zeros_like(drawn))  # an x0 network that says 0


def test_guidance_asks_for_both_branches_with_the_null_label(run):
    network = Answering(0)
    grid().draw(run[0], network, run[1].shape, torch.tensor([7]), 10, 2.0)
    assert network.calls[0][2].tolist() == [7] * 4 + [10] * 4


def test_picture_holds_the_tiles_in_order():
    x0 = torch.stack([torch.full((1, 8, 8), value) for value in (-1.0, -0.2, 0.2, 1.0)])
    picture = to_picture(x0, columns=2, tile=16, gap=2)
    assert picture.size == (2 * 18 + 2, 2 * 18 + 2)
    centres = [picture.getpixel((2 + 18 * column + 8, 2 + 18 * row + 8)) for row in (0, 1) for column in (0, 1)]
    assert centres == [0, 102, 153, 255]
    assert to_picture(x0.expand(4, 3, 8, 8), columns=4).mode == "RGB"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: grid(guidances=[]), "samples.guidances must be a list"),
        (lambda: grid(guidances=[-1]), "samples.guidances"),
        (lambda: grid(rescale=2), "guidance.rescale"),
        (lambda: grid(steps=0), "samples.steps"),
        (lambda: validation(sigmas=[math.inf]), "validation.sigmas must be finite"),
        (lambda: validation(sigmas=[0]), "validation.sigmas must be a number above 0"),
    ],
)
def test_refusals(make, told):
    with pytest.raises(ConfigError, match=told):
        make()


@pytest.mark.parametrize("overrides", [(), ("loss=eps", "schedule=laplace"), LEARNED])
def test_figures_show_every_level_that_is_drawn(overrides, tmp_path):
    objective = build(compose(*overrides).objective)
    figure = objective_figure({"title": Summary(objective=objective, steps=20)})
    shares, atom = figure.axes[0].patches[0].get_data().values, figure.axes[0].patches[-1].get_height()
    assert sum(shares) + float(atom) == pytest.approx(1, abs=2e-3)
    assert (atom > 0) == (objective.schedule.density.highest == math.inf)
    figure.savefig(tmp_path / "figure.png")
    validation_figure({"raw": {1.0: 0.5, math.inf: 0.2}}, "title").savefig(tmp_path / "other.png")


def test_running_weight_ends_at_one(run):
    figure = objective_figure({"title": Summary(objective=run[0], steps=20)})
    at_inf = figure.axes[2].lines[1].get_ydata()
    assert at_inf[0] == pytest.approx(1)
