import math

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import example, given
from hypothesis import strategies as st

from ztsnr.core.errors import ConfigError
from ztsnr.core.noise import add_noise, alpha, expand, sigma_vp
from ztsnr.core.target import EDM, X0, Eps, Flow, V

TARGETS = [Eps(), X0(), V(), EDM(sigma_data=1.0), EDM(sigma_data=0.5), Flow()]
FINITE_AT_INF = [target for target in TARGETS if target.finite_at_inf]
ORDINARY_SIGMA = st.floats(-7, 7).map(math.exp)

every_target = pytest.mark.parametrize("target", TARGETS, ids=repr)


def of(*sigmas):
    return torch.tensor(sigmas, dtype=torch.float64)


def pair(*shape, dtype=torch.float64):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype).unbind()


def largest_round_trip_error(target, sigmas):
    x0, noise = pair(len(sigmas), 3, 2, 2)
    z = add_noise(x0, noise, sigmas)
    return (target.denoised(target.output(x0, noise, sigmas), z, sigmas) - x0).abs().max().item()


@pytest.mark.parametrize("sigma", [0.0, 1e-3, 0.5, 14.6, 20000.0])
def test_x0_comes_back_from_eps_with_an_error_that_grows_as_sigma(sigma):
    assert largest_round_trip_error(Eps(), of(sigma)) < 1e-15 * (1 + sigma)


@given(st.floats(min_value=0))
@example(0.0)
@example(math.inf)
def test_x0_comes_back_from_the_ideal_output_at_any_sigma(sigma):
    assert all(largest_round_trip_error(target, of(sigma)) < 1e-14 for target in FINITE_AT_INF)


@every_target
def test_only_eps_is_not_finite_at_inf(target):
    x0, noise = pair(1, 4)
    back = target.denoised(target.output(x0, noise, of(math.inf)), noise, of(math.inf))
    assert torch.isfinite(back).all() == target.finite_at_inf == (not isinstance(target, Eps))


@pytest.mark.parametrize("zero_snr", [False, True])
def test_v_is_the_velocity_of_diffusers(zero_snr, sdxl, zero_terminal):
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=zero_snr
    )
    x0, noise = pair(1000, 4, dtype=torch.float32)
    sigmas = (zero_terminal if zero_snr else sdxl).sigmas
    velocity = scheduler.get_velocity(x0, noise, torch.arange(1000))
    torch.testing.assert_close(V().output(x0, noise, sigmas), velocity, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 2.0])
@given(ORDINARY_SIGMA)
def test_edm_on_z_is_the_paper_on_x(sigma_data, sigma):
    """arXiv 2206.00364, Table 1."""
    target, level, total = EDM(sigma_data=sigma_data), of(sigma), sigma**2 + sigma_data**2
    x_of_z = 1 / alpha(level)
    torch.testing.assert_close(target.c_in(level), x_of_z / math.sqrt(total))
    torch.testing.assert_close(target.c_skip(level), x_of_z * sigma_data**2 / total)
    torch.testing.assert_close(target.c_out(level), of(sigma * sigma_data / math.sqrt(total)))


@given(ORDINARY_SIGMA)
def test_flow_is_the_velocity_of_the_straight_path_and_its_input_the_paths_state(sigma):
    x0, noise = pair(1, 4)
    level, tau = of(sigma), sigma / (1 + sigma)
    network_input = expand(Flow().c_in(level), x0) * add_noise(x0, noise, level)
    torch.testing.assert_close(network_input, (1 - tau) * x0 + tau * noise)
    torch.testing.assert_close(network_input - tau * Flow().output(x0, noise, level), x0)


@pytest.mark.parametrize(
    ("target", "at_0", "at_inf"),
    [(Eps(), 1, 0), (X0(), 0, 1), (V(), 1, 1), (EDM(sigma_data=0.5), 1, 4), (Flow(), 1, 1)],
    ids=repr,
)
@given(ORDINARY_SIGMA)
def test_gain_is_the_squared_error_of_the_output_per_squared_error_of_v(target, at_0, at_inf, sigma):
    level = of(sigma)
    quotient = (sigma_vp(level) / target.c_out(level)).square()
    torch.testing.assert_close(target.gain(level), quotient, rtol=1e-12, atol=0)
    assert target.gain(of(0.0, math.inf)).tolist() == pytest.approx([at_0, at_inf], rel=1e-15)


@pytest.mark.parametrize("target", [V(), EDM(sigma_data=0.5), Flow()], ids=repr)
def test_closed_form_keeps_the_digits_in_bfloat16_that_the_quotient_loses(target):
    x0, noise = pair(1, 10_000, dtype=torch.bfloat16)
    level = of(0.03)
    exact = target.output(x0.double(), noise.double(), level)
    skip, out = expand(target.c_skip(level), x0), expand(target.c_out(level), x0)
    quotient = (x0 - skip * add_noise(x0, noise, level)) / out

    def error(output):
        return ((output.double() - exact).norm() / exact.norm()).item()

    assert error(target.output(x0, noise, level)) < 0.003
    assert error(quotient) > 0.05


@every_target
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_estimates_keep_the_dtype_of_the_data(target, dtype):
    x0, noise = pair(2, 3, dtype=dtype)
    output = target.output(x0, noise, of(0.1, 10.0))
    assert output.dtype == target.denoised(output, noise, of(0.1, 10.0)).dtype == dtype


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, "0.5", True])
def test_edm_rejects_a_sigma_data_that_is_not_positive_and_finite(value):
    with pytest.raises(ConfigError, match=r"^sigma_data"):
        EDM(sigma_data=value)
