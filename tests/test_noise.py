import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ztsnr.core.noise import add_noise, alpha, expand, logsnr, sigma_from_logsnr, sigma_vp, snr

ANY_SIGMA = st.floats(min_value=0)
ORDINARY_SIGMA = st.floats(-30, 30).map(math.exp)


def of(*sigmas):
    return torch.tensor(sigmas, dtype=torch.float64)


@given(ANY_SIGMA)
def test_state_keeps_unit_variance_at_every_sigma_from_0_to_inf(sigma):
    power = alpha(of(sigma)).square() + sigma_vp(of(sigma)).square()
    assert power.item() == pytest.approx(1, abs=1e-15)


@given(ORDINARY_SIGMA)
def test_coefficients_are_cosine_and_sine_of_the_angle_to_full_relative_precision(sigma):
    assert alpha(of(sigma)).item() == pytest.approx(1 / math.hypot(1, sigma), rel=1e-15)
    assert sigma_vp(of(sigma)).item() == pytest.approx(sigma / math.hypot(1, sigma), rel=1e-15)


@given(ORDINARY_SIGMA)
def test_snr_is_the_ratio_of_powers_and_logsnr_its_logarithm_and_sigma_comes_back(sigma):
    ratio = (alpha(of(sigma)) / sigma_vp(of(sigma))).square().item()
    assert snr(of(sigma)).item() == pytest.approx(ratio, rel=1e-14)
    assert logsnr(of(sigma)).item() == pytest.approx(math.log(ratio), abs=1e-13)
    assert sigma_from_logsnr(logsnr(of(sigma))).item() == pytest.approx(sigma, rel=1e-13)


def test_coefficients_are_exact_at_sigma_0_and_inf():
    ends = of(0.0, math.inf)
    assert alpha(ends).tolist() == [1, 0]
    assert sigma_vp(ends).tolist() == [0, 1]
    assert snr(ends).tolist() == [math.inf, 0]
    assert logsnr(ends).tolist() == [math.inf, -math.inf]
    assert sigma_from_logsnr(of(math.inf, -math.inf)).tolist() == [0, math.inf]


def test_add_noise_is_the_sum_in_x_space_scaled_by_alpha_and_only_noise_at_inf():
    x0, noise = of(0.5, -2.0), of(1.5, 0.25)
    assert add_noise(x0, noise, of(0.0, math.inf)).tolist() == [0.5, 0.25]
    torch.testing.assert_close(
        add_noise(x0, noise, of(3.0, 0.1)), of((0.5 + 3 * 1.5) / math.sqrt(10), (-2 + 0.1 * 0.25) / math.sqrt(1.01))
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_coefficients_take_shape_and_dtype_of_the_data(dtype):
    data = torch.ones(2, 3, 4, 5, dtype=dtype)
    expanded = expand(of(0.25, 4.0), data)
    assert expanded.shape == (2, 1, 1, 1)
    assert expanded.dtype == add_noise(data, data, of(1.0, math.inf)).dtype == dtype
    assert expand(torch.tensor(0.5), data).shape == (1, 1, 1, 1)
    assert expand(of(0.25, 4.0), data[:, 0, 0, 0]).tolist() == [0.25, 4]
