import io
from functools import cache, partial

import pytest
import torch
from torch import nn

from tests.helpers import RecordingMonitor, fit, weights
from ztsnr.config.registry import build, compose, make, options
from ztsnr.core.errors import ConfigError
from ztsnr.training.averaging import make_ema
from ztsnr.training.optim import ParamGroups, evaluating, make_optimizer, set_training
from ztsnr.training.trial import try_optimizer

OPTIMIZERS = options("optimizer")
FOR_BFLOAT16 = {"adamw_flash", "adamw_kahan", "rose"}
preset = cache(partial(make, "optimizer"))


def changed(option, **settings):
    return partial(preset(option).func, **preset(option).keywords | settings)


def check_optimizer(make, param_dtype="float32", groups=None):
    try_optimizer(make, param_dtype=param_dtype, rounding="nearest", in_backward=False, groups=groups)


def groups(**fields):
    return ParamGroups(**{"no_decay": [], "adamw": ["vectors"], "lr": []} | fields)


def low(option):
    return ["trainer.param_dtype=bfloat16", "trainer.mixed_precision=bf16"] if option in FOR_BFLOAT16 else []


@pytest.mark.parametrize("option", OPTIMIZERS)
def test_every_optimizer_lowers_the_held_out_error(option):
    monitor = RecordingMonitor()
    words = ("trainer.steps=60", "trainer.batch_size=64", "model.width=64", "lr_schedule=constant", "trainer.ema=0.9")
    fit(f"optimizer={option}", *words, *low(option), monitor=monitor)
    assert monitor.scores[60][0] < 0.8 * monitor.scores[0][0]


def small_network(option, seed):
    """With more than the 4096 elements from which on bitsandbytes keeps its state in 8 bits."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(64, 80), nn.LayerNorm(80), nn.Linear(80, 64))
    return network.bfloat16() if option in FOR_BFLOAT16 else network


def start(option, seed):
    network = small_network(option, seed)
    return network, make_optimizer(preset(option), network, groups(no_decay=["vectors"], adamw=["vectors", "2"]))


def train(network, optimizer, steps):
    set_training(True, optimizer, network)
    for step in steps:
        torch.manual_seed(step)
        x = torch.randn(16, 64, dtype=network[0].weight.dtype)
        nn.functional.mse_loss(network(x), x.flip(1)).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("option", OPTIMIZERS)
def test_restored_optimizer_continues_to_the_bit(option):
    network, optimizer = start(option, seed=0)
    train(network, optimizer, range(12))  # more than SOAP's period
    file = io.BytesIO()
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(network, optimizer, range(12, 24))

    restored_network, restored_optimizer = start(option, seed=1)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    restored_network.load_state_dict(saved["network"])
    restored_optimizer.load_state_dict(saved["optimizer"])
    assert not torch.equal(restored_network[0].weight, network[0].weight)
    train(restored_network, restored_optimizer, range(12, 24))
    for p, q in zip(network.parameters(), restored_network.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("option", OPTIMIZERS)
def test_evaluating_between_steps_does_not_disturb_them(option):
    (evaluated, evaluated_optimizer), (reference, reference_optimizer) = start(option, seed=0), start(option, seed=0)
    for step in range(6):
        train(evaluated, evaluated_optimizer, [step])
        with evaluating(evaluated_optimizer, evaluated):
            assert not evaluated.training
    train(reference, reference_optimizer, range(6))
    for p, q in zip(evaluated.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("option", OPTIMIZERS)
@pytest.mark.parametrize("settings", [{"lr": "abc"}, {"lr": -1.0}, {"lr": float("inf")}, {"lr": None}])
def test_every_optimizer_refuses_impossible_rates(option, settings):
    with pytest.raises(ConfigError, match=rf"with optimizer\.lr={settings['lr']}.* (is refused|diverges): "):
        check_optimizer(changed(option, **settings), "bfloat16" if option in FOR_BFLOAT16 else "float32")


@pytest.mark.parametrize(
    ("option", "settings"), [("adamw", {"betas": [0.9]}), ("came", {"betas": [0.9, 0.99]}), ("muon", {"ns_steps": "x"})]
)
def test_settings_that_fail_only_in_a_step_are_refused(option, settings):
    with pytest.raises(ConfigError, match=rf"optimizer\.{next(iter(settings))}=.* (is refused|diverges): "):
        check_optimizer(changed(option, **settings))


def needs_cuda(parameters, lr):
    class Needy(torch.optim.SGD):
        def step(self):
            raise RuntimeError("no kernel for this device")

    return Needy(parameters, lr=lr)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the remedy is named only without CUDA")
def test_optimizer_that_needs_cuda_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"no kernel for this device\. If it needs CUDA, .* use optimizer=adamw"):
        check_optimizer(partial(needs_cuda, lr=0.1))


def travel(option, steps, dtype):
    """How far a parameter at 1 goes with steps of about a thousandth."""
    torch.manual_seed(0)
    p = nn.ParameterList([nn.Parameter(torch.ones(16, 16, dtype=dtype))])
    optimizer = make_optimizer(changed(option, lr=1e-3, weight_decay=0.0), p, groups())
    for _ in range(steps):
        p[0].grad = torch.linspace(0.5, 1.5, 256).view(16, 16).to(dtype)
        optimizer.step()
    return (1 - p[0].float()).abs().mean().item()


@pytest.mark.parametrize("option", OPTIMIZERS)
def test_bfloat16_weights_are_refused_for_optimizers_that_round_small_updates_away(option):
    if option in FOR_BFLOAT16:
        check_optimizer(preset(option), "bfloat16")
    else:
        with pytest.raises(ConfigError, match=r"rounds away small updates of \w+: \d+% take effect\. Use "):
            check_optimizer(preset(option), "bfloat16")


def test_small_updates_in_bfloat16_take_effect_if_the_trial_accepts_them():
    assert travel("adamw", 100, torch.float32) == pytest.approx(0.1, rel=0.01)
    assert travel("adamw", 100, torch.bfloat16) == 0
    assert travel("adamw_kahan", 100, torch.bfloat16) == pytest.approx(0.1, rel=0.05)
    assert travel("adamw_flash", 100, torch.bfloat16) == pytest.approx(0.1, rel=0.05)
    assert travel("rose", 100, torch.bfloat16) == pytest.approx(travel("rose", 100, torch.float32), rel=0.05)


def test_trial_does_not_change_the_random_generator():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check_optimizer(preset("rose"), "bfloat16")
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_in_bfloat16_train_and_are_averaged_in_float32():
    trained = fit("optimizer=adamw_kahan", "optimizer.lr=1e-5", "trainer.steps=6", *low("adamw_kahan"))
    assert weights(trained).dtype == torch.bfloat16
    assert weights(trained, "ema").dtype == torch.float32
    raw = torch.cat([p.flatten() for p in trained.networks["raw"].parameters()]).float()
    ema = torch.cat([p.flatten() for p in trained.networks["ema"].parameters()])
    torch.testing.assert_close(raw, ema, atol=0.01, rtol=0.01)


def test_average_of_bfloat16_weights_has_the_precision_of_float32():
    network = nn.Linear(4, 1, bias=False).bfloat16()
    ema = make_ema(network, 0.999)
    network.weight.data.fill_(1.0)
    ema.update_parameters(network)
    ema.n_averaged.fill_(100_000)  # past the ramp
    network.weight.data.fill_(1.5)
    ema.update_parameters(network)
    assert ema.module.weight[0, 0].item() == pytest.approx(1.0005, abs=1e-6)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.label = nn.Embedding(3, 4)
        self.enter, self.hidden, self.leave = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.norm = nn.LayerNorm(4)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def fields_by_name(network, optimizer, *keys):
    """{name of a parameter: what its group says under keys}"""
    fields = {p: tuple(group[key] for key in keys) for group in optimizer.param_groups for p in group["params"]}
    return {name: fields[p] for name, p in network.named_parameters() if p in fields}


def test_vectors_and_embeddings_have_no_weight_decay_by_default():
    network = Net()
    optimizer = make_optimizer(preset("adamw"), network, build(compose().trainer.groups))
    decays = fields_by_name(network, optimizer, "weight_decay")
    assert {name for name, (decay,) in decays.items() if decay} == {"enter.weight", "hidden.weight", "leave.weight"}
    assert not any(name.startswith("frozen") for name in decays)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    moved_names = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert moved_names == {"enter.weight", "hidden.weight", "leave.weight"}


def test_factors_on_the_rate_follow_patterns_and_multiply():
    network, rate = Net(), preset("adamw").keywords["lr"]
    factors = [["hidden", 0.1], ["*.bias", 2], ["embeddings", 0.5], ["enter.weigh?", 3]]
    rates = fields_by_name(network, make_optimizer(preset("adamw"), network, groups(lr=factors)), "lr")
    factor = {name: value / rate for name, (value,) in rates.items()}
    assert factor == pytest.approx(
        {"label.weight": 0.5, "enter.weight": 3, "enter.bias": 2, "hidden.weight": 0.1, "hidden.bias": 0.2}
        | {"leave.weight": 1, "leave.bias": 2, "norm.weight": 1, "norm.bias": 2}
    )


def test_lr_factor_of_0_keeps_parameters_unchanged():
    factors = "trainer.groups.lr=[[leave,0],[enter.*,0]]"
    network = fit("trainer.steps=3", "optimizer.lr=0.01", "trainer.ema=null", factors).networks["raw"]
    torch.manual_seed(0)
    fresh = build(compose("model.width=16", "model.depth=1").model)
    unchanged = {name for name, p in network.named_parameters() if torch.equal(p, fresh.get_parameter(name))}
    assert unchanged == {name for name, _ in fresh.named_parameters() if name.startswith(("leave", "enter"))}


def test_muon_takes_the_hidden_matrices_and_leaves_the_rest_to_adamw():
    network, make_muon = Net(), preset("muon")
    optimizer = make_optimizer(make_muon, network, build(compose("trainer.groups.lr=[[hidden,0.5]]").trainer.groups))
    group_fields = fields_by_name(network, optimizer, "use_muon", "lr", "weight_decay")
    keys = make_muon.keywords
    assert {name for name, (muon, *_) in group_fields.items() if muon} == {"hidden.weight"}
    assert group_fields["hidden.weight"] == (True, keys["lr"] * 0.5, keys["weight_decay"])
    assert group_fields["hidden.bias"] == (False, keys["adamw_lr"] * 0.5, 0)
    assert group_fields["enter.weight"] == (False, keys["adamw_lr"], keys["adamw_wd"])


@pytest.mark.parametrize("option", ["adamw", "muon"])
def test_first_group_has_the_configured_rate(option):
    optimizer = make_optimizer(preset(option), Net(), groups(adamw=["enter"], lr=[["label", 0.1], ["hidden.bias", 2]]))
    assert optimizer.param_groups[0]["lr"] == preset(option).keywords["lr"]


@pytest.mark.parametrize("option", ["adamw", "muon", "prodigy"])
def test_extra_parameters_are_the_last_group_without_decay(option):
    extra = nn.Linear(3, 1)
    optimizer = make_optimizer(preset(option), Net(), groups(adamw=["enter"]), extra.parameters())
    last = optimizer.param_groups[-1]
    assert [id(p) for p in last["params"]] == [id(p) for p in extra.parameters()]
    assert last["weight_decay"] == 0
    assert last["lr"] == preset(option).keywords.get("adamw_lr", preset(option).keywords["lr"])
    assert last.get("use_muon", False) is False


def test_lr_factors_are_refused_for_an_optimizer_with_one_rate_for_all():
    check_optimizer(preset("adamw"), groups=groups(lr=[["hidden", 0.1]]))
    with pytest.raises(ConfigError, match=r"trainer\.groups\.lr=.* has no effect on Prodigy"):
        check_optimizer(preset("prodigy"), groups=groups(lr=[["hidden", 0.1]]))


@pytest.mark.parametrize(
    ("option", "fields", "message"),
    [
        ("adamw", {"lr": [["hiden", 0.1]]}, r"groups\.lr has 'hiden', which matches no parameter\. Did you mean hid"),
        ("adamw", {"no_decay": ["enter.wait"]}, r"groups\.no_decay has 'enter\.wait', .* Did you mean .*enter\.weight"),
        ("adamw", {"lr": [["frozen.*", 0.1]]}, r"trainer\.groups\.lr has 'frozen\.\*', which matches no parameter"),
        ("muon", {"adamw": ["vectors", "conv_in"]}, r"groups\.adamw=.* matches none of this .* of enter, hidden, "),
    ],
)
def test_patterns_that_match_nothing_are_refused(option, fields, message):
    with pytest.raises(ConfigError, match=message):
        make_optimizer(preset(option), Net(), groups(**fields))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.groups.no_decay=vectors", r"trainer\.groups\.no_decay must be a list of .*, got 'vectors'"),
        ("trainer.groups.adamw=[1]", r"trainer\.groups\.adamw must be a text, got 1"),
        ("trainer.groups.lr=0.1", r"trainer\.groups\.lr must be a list of .*, got 0\.1"),
        ("trainer.groups.lr=[blocks,0.1]", r"trainer\.groups\.lr must be a list of .* got 'blocks'"),
        ("trainer.groups.lr=[[blocks.*,-1]]", r"groups\.lr's factor for blocks\.\* must be .* at least 0, got -1"),
        ("trainer.groups=3", r"trainer\.groups must be a ParamGroups, got 3"),
    ],
)
def test_groups_reject_malformed_patterns_and_factors(override, message):
    with pytest.raises(ConfigError, match=message):
        build(compose(override), "trainer")
