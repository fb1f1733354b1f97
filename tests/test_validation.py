"""The error that compares runs."""

import math

import pytest
import torch

from tests.helpers import ConstantOutput
from ztsnr.config.registry import build, compose
from ztsnr.core.errors import ConfigError
from ztsnr.core.noise import sigma_vp
from ztsnr.evaluation.validation import Validation

SIGMAS = [0.1, 1.0, 10.0]


@pytest.fixture(scope="module")
def run():
    composed = compose("loss=x0")
    return build(composed.objective), build(composed.data)


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
    inputs = []
    for batch_size in (64, 100):
        torch.manual_seed(batch_size)
        network = ConstantOutput(0)
        with torch.no_grad():
            validation(batch_size=batch_size, samples=100, sigmas=[1.0])(objective, network, data)
        inputs.append(torch.cat([z for z, _, _ in network.calls]))
    assert torch.equal(*inputs)
    assert len(inputs[0]) == 2 * 100  # at inf too


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [([math.inf], "sigmas must be finite"), ([0], "sigmas must be a number above 0"), ([], "sigmas must be a list of")],
)
def test_validation_with_empty_infinite_or_zero_sigmas_is_refused(sigmas, message):
    with pytest.raises(ConfigError, match=message):
        validation(sigmas=sigmas)
