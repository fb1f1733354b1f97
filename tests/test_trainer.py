import copy
import math
from functools import partial

import pytest
import torch
from accelerate import PartialState, debug_launcher
from accelerate.state import AcceleratorState

from tests.helpers import PARTS, SMALL, RecordingMonitor, fit, weights
from ztsnr.config.registry import build, compose
from ztsnr.core.errors import ConfigError, NonFinite, OutOfMemory
from ztsnr.core.objective import Objective
from ztsnr.core.schedule.density import TableUniform
from ztsnr.devices.processes import rows_of
from ztsnr.tracking.monitor import Monitor
from ztsnr.training.averaging import make_ema
from ztsnr.training.batch import parts_of
from ztsnr.training.optim import evaluating, make_optimizer, set_training


@pytest.fixture(scope="module")
def reference():
    return weights(fit())


def test_training_lowers_the_held_out_error():
    monitor = RecordingMonitor()
    trained = fit(
        "trainer.steps=150", "trainer.batch_size=64", "model.width=64", "trainer.validate_every=150", monitor=monitor
    )
    assert trained.score < 0.5 * monitor.scores[0][0]
    assert monitor.losses[-1][1] < 0.5 * monitor.losses[0][1]


class Masked:
    """A data set whose every sample has this mask."""

    def __init__(self, mask, data):
        self.mask, self.data = mask, data

    def __getattr__(self, name):
        return getattr(self.data, name)

    def batch(self, step, rows, batch_size):
        x0, cond = self.data.batch(step, rows, batch_size)
        return x0, cond | {"mask": self.mask.expand(len(rows), 1, *x0.shape[2:])}


def test_mask_of_ones_changes_no_bit_and_one_of_zeros_trains_nothing(reference):
    assert torch.equal(weights(fit(data=partial(Masked, torch.ones(1, 1, 1, 1)))), reference)
    monitor = RecordingMonitor()
    trained = fit("optimizer.weight_decay=0", monitor=monitor, data=partial(Masked, torch.zeros(1, 1, 1, 1)))
    assert [(loss, norm) for _, loss, norm, _ in monitor.losses] == [(0.0, 0.0)] * 4
    assert torch.equal(weights(trained), weights(fit("optimizer.lr=0", "optimizer.weight_decay=0")))


def test_validation_and_sampling_do_not_change_the_weights(reference):
    evaluated = fit("trainer.validate_every=1", "trainer.sample_every=1", "trainer.ema=null")
    assert torch.equal(weights(evaluated), reference)


@pytest.mark.parametrize("override", ["seed=1", "data.seed=1", "trainer.noise_seed=1"])
def test_each_seed_changes_the_run(reference, override):
    assert not torch.equal(weights(fit(override)), reference)


def test_accumulation_changes_only_rounding(reference):
    together = RecordingMonitor()
    accumulated = RecordingMonitor()
    fit(monitor=together)
    trained = fit("trainer.gradient_accumulation_steps=4", monitor=accumulated)
    torch.testing.assert_close(weights(trained), reference, atol=1e-4, rtol=1e-3)
    for one, other in zip(together.losses, accumulated.losses, strict=True):
        assert other == pytest.approx(one, rel=1e-3)  # the norm too, which does not affect AdamW's steps


def train_and_save(path):
    AcceleratorState._reset_state(reset_partial_state=True)  # inherited from the test's process
    trained = fit("trainer.gradient_accumulation_steps=2")
    assert PartialState().num_processes == 2
    if PartialState().is_main_process:
        torch.save(weights(trained), path)


@pytest.mark.slow
def test_two_processes_train_like_one(reference, tmp_path):
    debug_launcher(train_and_save, (tmp_path / "weights.pt",), num_processes=2)
    torch.testing.assert_close(torch.load(tmp_path / "weights.pt"), reference, atol=1e-4, rtol=1e-3)


def test_monitor_receives_every_step_and_the_first_and_last_validation():
    monitor = RecordingMonitor()
    rates = ("lr_schedule.warmup=1", "optimizer.lr=0.1")
    trained = fit("trainer.validate_every=3", "trainer.sample_every=2", *rates, monitor=monitor)
    assert [step for step, *_ in monitor.losses] == [1, 2, 3, 4]
    assert [lr for *_, lr in monitor.losses] == pytest.approx([0.05, 0.1, 0.075, 0.025])
    assert list(monitor.scores) == [0, 3, 4]
    assert monitor.images == [(2, [1.0, 2.0]), (4, [1.0, 2.0])]
    assert trained.step == 4
    assert trained.score == monitor.scores[4][0]
    assert set(monitor.scores[4][1]) == {"raw", "ema"}


def test_max_grad_norm_bounds_the_update_but_not_the_reported_norm():
    one_step = ("trainer.steps=1", "optimizer._target_=torch.optim.SGD", "optimizer.lr=1", "optimizer.weight_decay=0")
    drop = ("~optimizer.betas", "~optimizer.eps", "optimizer.fused=false", "lr_schedule=constant")
    start = weights(fit(*one_step, *drop, "optimizer.lr=0"))
    for clip in (1e-3, 1e3):
        monitor = RecordingMonitor()
        moved = (weights(fit(*one_step, *drop, f"trainer.max_grad_norm={clip}", monitor=monitor)) - start).norm().item()
        norm = monitor.losses[0][2]
        assert moved == pytest.approx(min(clip, norm), rel=1e-3)
        assert norm > 1e-3


def test_schedule_free_evaluates_other_weights_and_restores_the_trained_ones():
    network = torch.nn.Linear(3, 3)
    composed = compose("optimizer=schedule_free", "trainer.groups.no_decay=[vectors]")
    optimizer = make_optimizer(build(composed.optimizer), network, build(composed.trainer.groups))
    set_training(True, optimizer, network)
    for _ in range(5):
        network(torch.ones(2, 3)).square().mean().backward()
        optimizer.step()
    training = network.weight.detach().clone()
    with evaluating(optimizer, network):
        assert not torch.allclose(network.weight, training)
        assert not network.training
    torch.testing.assert_close(network.weight.detach(), training)
    assert network.training


def test_fit_returns_the_weights_to_evaluate():
    monitor = RecordingMonitor()
    trained = fit("optimizer=schedule_free", "lr_schedule=constant", "trainer.ema=null", monitor=monitor)
    composed = compose(*SMALL)
    validation, objective, data = (build(composed[name]) for name in ("validation", "objective", "data"))
    with torch.no_grad():
        again = validation(objective, trained.networks["raw"], data)
    assert validation.score(again) == pytest.approx(monitor.scores[4][0])
    assert not trained.networks["raw"].training


def test_ema_is_the_running_average_with_its_ramp():
    network = torch.nn.Linear(2, 1, bias=False)
    values, ema = [1.0, 3.0, -2.0, 5.0], make_ema(network, 0.3)
    expected = None
    for n, value in enumerate(values):
        network.weight.data.fill_(value)
        ema.update_parameters(network)
        decay = min(0.3, (1 + n) / (10 + n))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert ema.module.weight[0, 0].item() == pytest.approx(expected)


def test_compiled_networks_are_saved_under_their_own_names(reference, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    trained = fit("trainer.compile=true")
    assert not any("_orig_mod" in key for key in trained.networks["raw"].state_dict())
    torch.testing.assert_close(weights(trained), reference, atol=1e-5, rtol=1e-4)


def test_bf16_computes_in_bfloat16_and_keeps_weights_in_float32(reference):
    low = weights(fit("trainer.mixed_precision=bf16"))
    assert low.dtype == torch.float32
    assert not torch.equal(low, reference)
    torch.testing.assert_close(low, reference, atol=0.02, rtol=0.1)


def poisoned(data):
    poisoned = copy.copy(data)
    poisoned.train.x0[:] = math.inf
    return poisoned


def test_non_finite_loss_stops_training_and_names_the_sigmas():
    message = (
        r"in step 1 before its update: .*loss of 16 of 16 samples is not finite, at sigma [\d.]+.*Lower optimizer\.lr"
    )
    with pytest.raises(NonFinite, match=message):
        fit(data=poisoned)


def test_out_of_memory_error_names_settings_that_need_less(monkeypatch):
    def raising(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total ...")

    monkeypatch.setattr(Objective, "terms", raising)
    with pytest.raises(
        OutOfMemory,
        match=r"Out of memory: CUDA out of memory\. Reduce memory with .*trainer\.gradient_accumulation_steps",
    ) as caught:
        fit()
    for word in ("model.gradient_checkpointing=true", "trainer=24gb", "model/train=lora", "optimizer=adamw8bit"):
        assert word in str(caught.value)


def test_non_finite_gradient_stops_training_and_names_the_tensors():
    composed = compose(*SMALL)
    parts = {name: build(composed[name]) for name in PARTS}
    network = build(composed.model)
    network.enter.weight.register_hook(lambda grad: grad * math.nan)
    with pytest.raises(NonFinite, match=r"the gradient is not, in 1 tensors, first enter\.weight"):
        build(composed.trainer).fit(**parts, network=network, monitor=Monitor())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.steps=abc"], r"trainer\.steps must be an integer of 1 or more, got 'abc'"),
        (
            ["trainer.batch_size=30", "trainer.gradient_accumulation_steps=4"],
            r"must be a multiple of trainer\.gradient_accumulation_steps=4, got 30",
        ),
        (["trainer.mixed_precision=half"], r"trainer\.mixed_precision must be one of no, bf16, fp16, got 'half'"),
        (["trainer.max_grad_norm=0"], r"trainer\.max_grad_norm must be a number above 0"),
        (["trainer.ema=1"], r"trainer\.ema must be a number above 0 and below 1"),
        (["trainer.compile=1"], r"trainer\.compile must be true or false"),
        (["trainer.param_dtype=fp16"], r"trainer\.param_dtype must be one of float32, bfloat16, got 'fp16'"),
        (
            ["trainer.param_dtype=bfloat16"],
            r"trainer\.param_dtype=bfloat16 requires trainer\.mixed_precision=bf16, got no",
        ),
        pytest.param(
            ["trainer.mixed_precision=fp16"],
            r"trainer\.mixed_precision=fp16 needs a CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is refused only without CUDA"),
        ),
    ],
)
def test_trainer_rejects_invalid_settings(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build(compose(*overrides), "trainer")


def test_processes_share_the_batch_without_gap_or_overlap():
    shares = [rows_of(process, 4, batch_size=24, accumulation_steps=3) for process in range(4)]
    assert [row for rows in shares for row in rows] == list(range(24))
    assert [list(range(6))[part] for part in parts_of(6, accumulation_steps=3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(ConfigError, match=r"multiple of 5 process\(es\)"):
        rows_of(0, 5, batch_size=24, accumulation_steps=3)


def test_batch_size_that_cannot_be_divided_is_refused_before_the_first_step():
    def with_rests(data):
        data.__dict__["batch_sizes"] = lambda batch_size: {batch_size, 7}
        return data

    monitor = RecordingMonitor()
    with pytest.raises(
        ConfigError, match=r"accumulation_steps=4, got 7\. For the rest of a bucket: data\.leftovers=merge"
    ):
        fit("trainer.gradient_accumulation_steps=4", monitor=monitor, data=with_rests)
    assert not monitor.losses


def test_levels_are_drawn_one_in_each_stratum_or_independently(monkeypatch):
    draws = {}
    sigma = TableUniform.sigma
    for stratify in ("true", "false"):
        recorded = draws.setdefault(stratify, [])
        with monkeypatch.context() as patch:
            patch.setattr(
                TableUniform, "sigma", lambda self, u, recorded=recorded: recorded.append(u) or sigma(self, u)
            )
            fit(f"trainer.stratify={stratify}", "trainer.batch_size=16", "trainer.steps=3")
    counts = {
        stratify: [(u * 16).long().bincount(minlength=16).tolist() for u in recorded if len(u) == 16]
        for stratify, recorded in draws.items()
    }
    assert counts["true"] == [[1] * 16] * 3
    assert len(counts["false"]) == 3
    assert all(count != [1] * 16 for count in counts["false"])
