from dataclasses import replace
from functools import cache, partial

import diffusers.optimization as diffusers
import pytest
import torch
import transformers.optimization as transformers
from hypothesis import given
from hypothesis import strategies as st

from ztsnr.config.registry import make, options
from ztsnr.core.errors import ConfigError
from ztsnr.training.lr_schedule import Constant, Cosine, InverseSqrt, Polynomial, WarmupStableDecay

STEPS, WARMUP = 100, 10
make_schedule = cache(partial(make, "lr_schedule"))


@pytest.mark.parametrize("option", options("lr_schedule"))
@given(warmup=st.integers(0, 50), steps=st.integers(1, 200))
def test_factors_are_in_the_unit_interval_and_warm_up_linearly_to_1(option, warmup, steps):
    schedule = replace(make_schedule(option), warmup=warmup)
    factors = [schedule.factor(step, steps) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    if option != "wsd":  # whose fall may begin during the rise
        rise = [(step + 1) / (warmup + 1) for step in range(min(warmup + 1, steps))]
        assert factors[: warmup + 1] == pytest.approx(rise)
    if option not in ("wsd", "cosine_restarts"):
        assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


def by_library(build, **settings):
    """Factors of a torch scheduler, step by step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = build(optimizer, **settings)
    factors = []
    for _ in range(STEPS):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


WARM = {"num_warmup_steps": WARMUP, "num_training_steps": STEPS}
WSD = {"num_warmup_steps": WARMUP, "num_decay_steps": 30, "num_stable_steps": 60}
ORACLES = {
    "constant": (
        Constant(warmup=WARMUP),
        lambda: by_library(diffusers.get_constant_schedule_with_warmup, num_warmup_steps=WARMUP),
    ),
    "linear": (
        Polynomial(warmup=WARMUP, power=1.0, final=0.0),
        lambda: by_library(diffusers.get_linear_schedule_with_warmup, **WARM),
    ),
    "linear to a tenth": (
        Polynomial(warmup=0, power=1.0, final=0.1),
        lambda: by_library(torch.optim.lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.1, total_iters=STEPS),
    ),
    "polynomial": (
        Polynomial(warmup=WARMUP, power=3.0, final=0.2),
        lambda: by_library(diffusers.get_polynomial_decay_schedule_with_warmup, **WARM, power=3.0, lr_end=0.2),
    ),
    "cosine": (
        Cosine(warmup=WARMUP, cycles=1, final=0.0),
        lambda: by_library(diffusers.get_cosine_schedule_with_warmup, **WARM),
    ),
    "cosine to a tenth": (
        Cosine(warmup=0, cycles=1, final=0.1),
        lambda: by_library(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=STEPS, eta_min=0.1),
    ),
    "cosine with restarts": (
        Cosine(warmup=WARMUP, cycles=3, final=0.0),
        lambda: by_library(diffusers.get_cosine_with_hard_restarts_schedule_with_warmup, **WARM, num_cycles=3),
    ),
    "cosine with restarts to a tenth": (
        Cosine(warmup=0, cycles=4, final=0.1),
        lambda: by_library(torch.optim.lr_scheduler.CosineAnnealingWarmRestarts, T_0=STEPS // 4, eta_min=0.1),
    ),
    "stable, then linear": (
        WarmupStableDecay(warmup=WARMUP, decay=0.3, power=1.0, final=0.1),
        lambda: by_library(transformers.get_wsd_schedule, **WSD, decay_type="linear", min_lr_ratio=0.1),
    ),
    "stable, then 1 - sqrt": (
        WarmupStableDecay(warmup=WARMUP, decay=0.3, power=0.5, final=0.0),
        lambda: by_library(transformers.get_wsd_schedule, **WSD, decay_type="1-sqrt"),
    ),
}


@pytest.mark.parametrize("name", ORACLES)
def test_factors_after_the_warmup_equal_those_of_the_libraries(name):
    schedule, oracle = ORACLES[name]
    expected = oracle()[schedule.warmup :]
    assert len(set(expected)) > 1 or name == "constant"
    assert [schedule.factor(step, STEPS) for step in range(schedule.warmup, STEPS)] == pytest.approx(expected)


def test_inverse_sqrt_equals_edm2s_formula():
    schedule = InverseSqrt(warmup=10, reference=400)
    assert [schedule.factor(step, 1) for step in (10, 400, 1600, 40_000)] == pytest.approx([1, 1, 1 / 2, 1 / 10])
    overlap = InverseSqrt(warmup=799, reference=200)  # the rise and the fall together
    assert overlap.factor(399, 1) == pytest.approx(0.5 * (200 / 399) ** 0.5)


@pytest.mark.parametrize(
    ("option", "fields", "message"),
    [
        ("constant", {"warmup": -1}, r"^warmup must be an integer of 0 or more, got -1"),
        ("linear", {"warmup": 1.5}, r"^warmup must be an integer of 0 or more, got 1\.5"),
        ("cosine", {"final": 1.5}, r"^final must be a number of at least 0 and of at most 1, got 1\.5"),
        ("cosine_restarts", {"cycles": 0}, r"^cycles must be an integer of 1 or more, got 0"),
        ("polynomial", {"power": 0}, r"^power must be a number above 0, got 0"),
        ("polynomial", {"final": "abc"}, r"^final must be a number .* got 'abc'"),
        ("wsd", {"decay": 0}, r"^decay must be a number above 0 and of at most 1, got 0"),
        ("wsd", {"decay": 200}, r"^decay must be a number above 0 and of at most 1, got 200"),
        ("inverse_sqrt", {"reference": 0}, r"^reference must be an integer of 1 or more, got 0"),
    ],
)
def test_lr_schedule_rejects_values_out_of_bounds(option, fields, message):
    with pytest.raises(ConfigError, match=message):
        replace(make_schedule(option), **fields)
