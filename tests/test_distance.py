import math
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ztsnr.core.distance import (
    MAE,
    MSE,
    Charbonnier,
    ConstantThreshold,
    ExponentialThreshold,
    Huber,
    PseudoHuber,
    SNRThreshold,
)
from ztsnr.core.errors import ConfigError

C = 0.1
DISTANCES = [
    MSE(),
    MAE(),
    Huber(delta=C),
    PseudoHuber(threshold=ConstantThreshold(c=C)),
    PseudoHuber(threshold=SNRThreshold(c=C)),
    Charbonnier(threshold=SNRThreshold(c=C)),
]
SIZE = st.floats(-18, 12).map(math.exp)


def of(*values):
    return torch.tensor(values, dtype=torch.float64)


def at(distance, d, sigma=1.0, dtype=torch.float64):
    """The distance of a single element's error."""
    return distance(torch.tensor([[d]], dtype=dtype), torch.zeros(1, 1, dtype=dtype), of(sigma)).item()


def pseudo_huber(d, c):
    """2 c (sqrt(d² + c²) - c), exact to 40 digits."""
    with localcontext() as context:
        context.prec = 40
        d, c = Decimal(d), Decimal(c)
        return float(2 * c * ((d * d + c * c).sqrt() - c))


@given(SIZE, st.sampled_from([0.01, 1.0, 3.0]))
def test_mse_mae_and_huber_which_is_half_the_square_and_then_linear(d, delta):
    assert at(MSE(), -d) == pytest.approx(d**2, rel=1e-15)
    assert at(MAE(), -d) == d
    expected = d**2 / 2 if d <= delta else delta * (d - delta / 2)
    assert at(Huber(delta=delta), -d) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@given(SIZE, st.sampled_from([0.01, 0.1, 1.0]))
def test_pseudo_huber_and_charbonnier_keep_their_digits_from_small_errors_to_large(dtype, digits, d, c):
    d = torch.tensor(d, dtype=dtype).item()
    expected = pseudo_huber(d, torch.tensor(c, dtype=dtype).item())
    assert at(PseudoHuber(threshold=ConstantThreshold(c=c)), -d, dtype=dtype) == pytest.approx(expected, rel=digits)
    charbonnier = at(Charbonnier(threshold=ConstantThreshold(c=c)), d, dtype=dtype)
    assert charbonnier == pytest.approx(expected / (2 * c), rel=2 * digits)


@pytest.mark.parametrize("distance", DISTANCES, ids=repr)
def test_a_perfect_output_has_no_distance_and_a_finite_gradient(distance):
    output = torch.zeros(3, 4, requires_grad=True)
    loss = distance(output, torch.zeros(3, 4), of(0, 1, math.inf))
    loss.sum().backward()
    assert loss.tolist() == [0, 0, 0]
    assert output.grad.abs().max() == 0


@pytest.mark.parametrize("distance", DISTANCES, ids=repr)
def test_distance_of_a_sample_is_the_mean_over_its_elements_at_its_own_level(distance):
    generator = torch.Generator().manual_seed(0)
    output, ideal = torch.randn(2, 4, 2, 3, 3, generator=generator, dtype=torch.float64)
    sigma = of(0, 0.3, 10, math.inf)
    together = distance(output, ideal, sigma)
    assert together.shape == (4,)
    for i in range(4):
        elements = [at(distance, d, sigma[i].item()) for d in (output[i] - ideal[i]).flatten().tolist()]
        assert together[i].item() == pytest.approx(sum(elements) / 18, rel=1e-12)


@pytest.mark.parametrize("distance", DISTANCES, ids=repr)
@pytest.mark.parametrize(
    ("input_dtype", "expected_dtype"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_distances_are_computed_in_float32_or_better(distance, input_dtype, expected_dtype):
    output, ideal = torch.tensor([[256.0, 1.0]], dtype=input_dtype), torch.tensor([[-1.0, 1.0]], dtype=input_dtype)
    loss = distance(output, ideal, of(1.0))
    assert loss.dtype == expected_dtype
    torch.testing.assert_close(loss, distance(output.to(expected_dtype), ideal.to(expected_dtype), of(1.0)))
    assert MSE()(output, ideal, of(1.0)).item() == 257**2 / 2


# thresholds, at each level of SDXL's tables, against the formulas of diffusers' and sd-scripts' training scripts


def threshold_of_diffusers(huber_schedule, huber_c, timestep, alphas_cumprod):
    """--loss_type of train_text_to_image_sdxl and its kin, for one timestep."""
    if huber_schedule == "exponential":
        alpha = -math.log(huber_c) / len(alphas_cumprod)
        return math.exp(-alpha * timestep)
    sigmas = ((1.0 - alphas_cumprod[timestep]) / alphas_cumprod[timestep]) ** 0.5
    return (1 - huber_c) / (1 + sigmas) ** 2 + huber_c


@pytest.mark.parametrize("huber_c", [0.001, 0.1, 1.0])
@pytest.mark.parametrize("huber_schedule", ["exponential", "snr"])
def test_thresholds_of_each_level_are_those_of_diffusers(huber_schedule, huber_c, sdxl):
    alphas_cumprod = (1 / (1 + sdxl.sigmas.square())).tolist()
    exponential = ExponentialThreshold(c=huber_c, table=sdxl)
    threshold = exponential if huber_schedule == "exponential" else SNRThreshold(c=huber_c)
    reference = [threshold_of_diffusers(huber_schedule, huber_c, t, alphas_cumprod) for t in range(1000)]
    assert threshold(sdxl.sigmas).tolist() == pytest.approx(reference, rel=1e-9)


def test_thresholds_at_both_ends(zero_terminal):
    inf = of(math.inf)
    assert SNRThreshold(c=C)(inf).item() == C
    assert ExponentialThreshold(c=C, table=zero_terminal)(inf).item() == pytest.approx(C**0.999, rel=1e-12)
    assert ConstantThreshold(c=C)(inf).item() == C
    assert SNRThreshold(c=C)(of(0.0)).item() == 1


# options


@pytest.mark.parametrize(
    ("make_one", "message"),
    [
        (lambda: Huber(delta=0), r"^delta must be a number above 0, got 0"),
        (lambda: ConstantThreshold(c=-0.1), r"^c must be a number above 0, got -0\.1"),
        (lambda: SNRThreshold(c=math.inf), r"^c must be finite, got inf"),
        (
            lambda: ExponentialThreshold(c=C, table="sdxl"),
            r"^table must be a SigmaTable, got 'sdxl'",
        ),
        (lambda: PseudoHuber(threshold=0.1), r"^threshold must be a Threshold, got 0\.1"),
        (lambda: Charbonnier(threshold=0.1), r"^threshold must be a Threshold, got 0\.1"),
    ],
)
def test_distance_rejects_an_impossible_field_by_name(make_one, message):
    with pytest.raises(ConfigError, match=message):
        make_one()
