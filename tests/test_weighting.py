import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ztsnr.errors import ConfigError
from ztsnr.noise import expand
from ztsnr.target import EDM, X0, Eps, Flow, V
from ztsnr.weighting import MinSNR, Unit

TARGETS = [Eps(), X0(), V(), EDM(sigma_data=0.5), Flow()]
GAMMA = 5.0
WEIGHTINGS = [*(Unit(base=base) for base in TARGETS), MinSNR(base=X0(), gamma=GAMMA)]
ORDINARY_SIGMA = st.floats(-5, 5).map(math.exp)


def of(*sigmas):
    return torch.tensor(sigmas, dtype=torch.float64)


@pytest.mark.parametrize(
    ("target", "published"),
    [
        (Eps(), lambda snr: min(snr, GAMMA) / snr),
        (V(), lambda snr: min(snr, GAMMA) / (snr + 1)),
        (X0(), lambda snr: min(snr, GAMMA)),
        (Flow(), lambda snr: min(snr, GAMMA) / (1 + math.sqrt(snr)) ** 2),
        (EDM(sigma_data=0.5), lambda snr: min(snr, GAMMA) / (snr + 4)),
    ],
)
@given(ORDINARY_SIGMA)
def test_min_snr_is_what_is_published_for_each_target(target, published, sigma):
    """arXiv 2303.09556."""
    weight = MinSNR(base=X0(), gamma=GAMMA)(of(sigma), target).item()
    assert weight == pytest.approx(published(sigma**-2), rel=1e-12)


@pytest.mark.parametrize(
    ("base", "on_x0"),
    [
        (Eps(), lambda snr: snr),
        (X0(), lambda snr: 1),
        (V(), lambda snr: snr + 1),
        (EDM(sigma_data=0.5), lambda snr: snr + 4),
        (Flow(), lambda snr: (1 + math.sqrt(snr)) ** 2),
    ],
)
@given(ORDINARY_SIGMA)
def test_unit_weight_on_a_base_weighs_x0_as_tabulated(base, on_x0, sigma):
    assert Unit(base=base)(of(sigma), X0()).item() == pytest.approx(on_x0(sigma**-2), rel=1e-12)


@pytest.mark.parametrize("base", TARGETS, ids=repr)
def test_unit_weight_on_its_own_base_is_1_even_at_both_ends(base):
    assert Unit(base=base)(of(0.0, 1.0, math.inf), base).tolist() == [1, 1, 1]


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=repr)
@given(ORDINARY_SIGMA)
def test_gradient_on_the_estimate_of_x0_is_the_same_whatever_is_predicted(weighting, sigma):
    generator = torch.Generator().manual_seed(0)
    x0, noise, error = torch.randn(3, 1, 4, generator=generator, dtype=torch.float64).unbind()
    level = of(sigma)

    def gradient(target):
        denoised = (x0 + error).requires_grad_()
        output = target.output(x0, noise, level) + (denoised - x0) / expand(target.c_out(level), x0)
        loss = weighting(level, target) * (output - target.output(x0, noise, level)).square().mean()
        return torch.autograd.grad(loss.sum(), denoised)[0]

    expected = weighting(level, X0()) * error / 2
    for target in TARGETS:
        torch.testing.assert_close(gradient(target), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("target", [V(), X0(), EDM(sigma_data=0.5), Flow()], ids=repr)
def test_min_snr_never_trains_the_terminal_level(target):
    assert MinSNR(base=X0(), gamma=GAMMA)(of(math.inf), target).item() == 0


@pytest.mark.parametrize(
    ("weighting", "at_inf"), [(Unit(base=V()), 1), (Unit(base=X0()), 1), (Unit(base=Eps()), 0)], ids=repr
)
def test_weight_on_v_at_the_terminal_level(weighting, at_inf):
    assert weighting(of(math.inf), V()).item() == at_inf


def test_min_snr_on_v_is_0_without_noise_too():
    assert MinSNR(base=X0(), gamma=GAMMA)(of(0.0), V()).item() == 0


def test_min_snr_on_zero_terminal_sdxl_gives_the_high_levels_the_known_shares(sdxl, zero_terminal):
    weight = MinSNR(base=X0(), gamma=GAMMA)(zero_terminal.sigmas, V())
    beyond_sdxl = zero_terminal.sigmas > sdxl.sigmas[-1]
    assert beyond_sdxl.sum() == 120
    assert (weight[beyond_sdxl].sum() / weight.sum()).item() == pytest.approx(0.0006, abs=5e-5)
    assert (weight[900:].sum() / weight.sum()).item() == pytest.approx(3e-4, abs=5e-5)
    assert weight.mean().item() == pytest.approx(0.278, abs=5e-4)
    assert Unit(base=Eps())(zero_terminal.sigmas, V()).mean().item() == pytest.approx(0.35, abs=5e-3)


def test_weightings_of_equal_parts_are_equal():
    assert MinSNR(base=X0(), gamma=5.0) == MinSNR(base=X0(), gamma=5)
    assert MinSNR(base=X0(), gamma=5.0) != MinSNR(base=Eps(), gamma=5.0)


@pytest.mark.parametrize("gamma", [0, -1.0, math.inf, math.nan, "five", True])
def test_min_snr_refuses_an_impossible_gamma(gamma):
    with pytest.raises(ConfigError, match=r"weighting\.gamma"):
        MinSNR(base=X0(), gamma=gamma)


@pytest.mark.parametrize("make", [lambda base: Unit(base=base), lambda base: MinSNR(base=base, gamma=GAMMA)])
def test_a_base_must_be_a_target(make):
    with pytest.raises(ConfigError, match=r"weighting\.base must be a Target, got 'v'"):
        make("v")
