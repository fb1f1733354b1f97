"""What changes the weights: all at once, one by one, in the backward pass, and rounded at random."""

import math
from functools import cache, partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.helpers import PARTS, SMALL, fit, weights
from ztsnr.config.registry import build, compose, make, options
from ztsnr.core.errors import ConfigError, NonFinite
from ztsnr.tracking.monitor import Monitor
from ztsnr.training.averaging import make_ema
from ztsnr.training.optim import ParamGroups, make_optimizer
from ztsnr.training.trial import try_optimizer
from ztsnr.training.updates import PerParameterOptimizer, stochastic_round

IN_BACKWARD = ("trainer.optimizer_in_backward=true", "trainer.max_grad_norm=null")
optimizer_factory = cache(partial(make, "optimizer"))


def train(option, steps, one_by_one):
    torch.manual_seed(0)
    dtype = torch.bfloat16 if option == "adamw_flash" else torch.float32
    network = nn.Sequential(nn.Linear(64, 80), nn.LayerNorm(80), nn.Linear(80, 64)).to(dtype)
    groups = ParamGroups(no_decay=["vectors"], adamw=["vectors", "2"], lr=[["2", 0.5]])
    optimizer = make_optimizer(optimizer_factory(option), network, groups)
    stepper = PerParameterOptimizer(optimizer, stochastic=False) if one_by_one else optimizer
    for step in range(steps):
        torch.manual_seed(step)
        x = torch.randn(16, 64, dtype=dtype)
        nn.functional.mse_loss(network(x), x.flip(1)).backward()
        stepper.step()
        optimizer.zero_grad()
    return torch.cat([p.flatten() for p in network.parameters()])


@pytest.mark.parametrize("option", options("optimizer"))
def test_per_parameter_steps_equal_a_joint_step_or_are_refused(option):
    settings = {"param_dtype": "bfloat16" if option == "adamw_flash" else "float32", "rounding": "nearest"}
    if option == "prodigy":
        with pytest.raises(ConfigError, match=r"update each parameter separately, but .* Prodigy depend on each other"):
            try_optimizer(optimizer_factory(option), in_backward=True, **settings)
    else:
        try_optimizer(optimizer_factory(option), in_backward=True, **settings)
        assert torch.equal(train(option, 5, one_by_one=True), train(option, 5, one_by_one=False))


@pytest.mark.parametrize(
    "overrides", [(), ("weighting=uncertainty", "optimizer=schedule_free", "lr_schedule=constant")]
)
def test_update_in_the_backward_pass_equals_the_update_after_it(overrides):
    after, within = (
        fit("trainer.max_grad_norm=null", f"trainer.optimizer_in_backward={flag}", *overrides)
        for flag in ("false", "true")
    )
    torch.testing.assert_close(weights(within), weights(after), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(weights(within, "ema"), weights(after, "ema"), rtol=1e-5, atol=1e-7)
    assert all(p.grad is None for p in within.networks["raw"].parameters())


@given(st.floats(-(2.0**126), 2.0**126, width=32), st.integers(0, 2**31))
def test_stochastic_round_gives_a_neighbour_and_is_unbiased(value, seed):
    torch.manual_seed(seed)
    rounded = stochastic_round(torch.full((4000,), value)).double()
    down = (torch.tensor(value).view(torch.int32) & -(1 << 16)).view(torch.float32).item()
    spacing = 2.0 ** (max(math.frexp(value)[1], -125) - 8)
    assert set(rounded.unique().tolist()) <= {down, down + math.copysign(spacing, value)}
    assert abs(rounded.mean().item() - value) <= 0.04 * spacing
    exact = torch.tensor([down, math.inf, -math.inf])
    assert torch.equal(stochastic_round(exact).float(), exact)


@pytest.mark.parametrize("backward", ["true", "false"])
@pytest.mark.parametrize("option", ["adamw", "adamw8bit"])
def test_stochastic_rounding_keeps_small_updates_in_bfloat16(option, backward):
    low = [
        "trainer.param_dtype=bfloat16",
        "trainer.mixed_precision=bf16",
        "trainer.max_grad_norm=null",
        "optimizer.lr=1e-5",
    ]
    low += [f"optimizer={option}", f"trainer.optimizer_in_backward={backward}", "trainer.rounding=stochastic"]
    start, trained = (weights(fit(*low, f"trainer.steps={steps}")) for steps in (1, 40))
    assert trained.dtype == torch.bfloat16
    moved = (trained.float() - start.float()).abs().mean().item()
    assert 39e-5 / 6 < moved < 39e-5 * 6  # the rate falls, and a random walk of roundings comes on top
    with pytest.raises(ConfigError, match=r"rounds away small updates of \w+: .* Use trainer\.rounding="):
        fit(*low, "trainer.rounding=nearest")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["trainer.optimizer_in_backward=true"],
            r"trainer\.max_grad_norm=1\.0 needs\. Use trainer\.max_grad_norm=null",
        ),
        (
            [
                "trainer.optimizer_in_backward=true",
                "trainer.max_grad_norm=null",
                "trainer.gradient_accumulation_steps=2",
            ],
            r"Use trainer\.gradient_accumulation_steps=1",
        ),
        (
            ["trainer.rounding=stochastic"],
            r"trainer\.rounding=stochastic requires trainer\.param_dtype=bfloat16, got float32",
        ),
        (["trainer.rounding=up"], r"trainer\.rounding must be one of nearest, stochastic"),
        (["trainer.ema_every=0"], r"trainer\.ema_every must be an integer of 1 or more"),
    ],
)
def test_trainer_rejects_conflicting_update_settings(overrides, message):
    with pytest.raises(ConfigError, match=message):
        fit(*overrides)


@pytest.mark.parametrize(
    ("rate", "poison", "message"),
    [
        (1e10, 1.0, r"before its update: the loss of"),
        (1e-3, math.nan, r"in step 1 after the weights were updated:"),
    ],
)
def test_non_finite_update_in_the_backward_pass_says_whether_the_weights_changed(rate, poison, message):
    composed = compose(*SMALL, *IN_BACKWARD, f"optimizer.lr={rate}", "trainer.steps=20", "trainer.validate_every=100")
    parts, network = {name: build(composed[name]) for name in PARTS}, build(composed.model)
    network.enter.weight.register_hook(lambda grad: grad * poison)
    with pytest.raises(NonFinite, match=message):
        build(composed.trainer).fit(**parts, network=network, monitor=Monitor())


def test_average_updated_every_fourth_step_equals_one_updated_every_step():
    network = nn.Linear(1, 1, bias=False)
    often, seldom = make_ema(network, 0.9), make_ema(network, 0.9, every=4)
    for average in (often, seldom):
        average.n_averaged.fill_(10**6)  # past the ramp
        average.module.weight.data.fill_(0.0)
    network.weight.data.fill_(1.0)
    for _ in range(4):
        often.update_parameters(network)
    seldom.update_parameters(network)
    assert seldom.module.weight.item() == pytest.approx(often.module.weight.item()) == pytest.approx(1 - 0.9**4)
