"""A run with interruptions is the same run, to the bit."""

import itertools
import os
import signal
from functools import cache

import pytest
import torch
from accelerate import PartialState, debug_launcher
from accelerate.state import AcceleratorState

from tests.helpers import PARTS, SMALL, Killed, KillingMonitor, assert_same, tensors
from ztsnr.checkpoints.find import find_state
from ztsnr.checkpoints.saver import DiskCheckpointer, read_best
from ztsnr.checkpoints.state_file import file_of, saved_steps
from ztsnr.config.identity import result_config
from ztsnr.config.registry import build, compose, options
from ztsnr.core.errors import CheckpointError, ConfigError, Interrupted
from ztsnr.core.objective import Objective
from ztsnr.tracking.monitor import Monitor
from ztsnr.training.signals import StopSignals

SETTINGS = ("trainer.steps=9", "model.width=64", "trainer.validate_every=3", "trainer.checkpoint.every=2")
INFONOISE = ("schedule=infonoise", "schedule.density.density.warmup=2", "schedule.density.density.refresh=2")
BFLOAT16 = ("trainer.param_dtype=bfloat16", "trainer.mixed_precision=bf16")
IN_BACKWARD = ("trainer.optimizer_in_backward=true", "trainer.max_grad_norm=null")
BY_OPTIMIZER = {"adamw_flash": BFLOAT16, "adamw_kahan": BFLOAT16, "rose": BFLOAT16}


@cache
def composed_of(*overrides):
    return compose(*SMALL, *SETTINGS, *overrides)


def attempt(folder, overrides, monitor):
    """As a new process would: builds everything again, and resumes from the newest state."""
    composed = composed_of(*overrides)
    trainer, parts = build(composed.trainer), {name: build(composed[name]) for name in PARTS}
    torch.manual_seed(composed.seed)
    state = find_state("auto", False, folder, result_config(composed), ())
    facts = {"config": result_config(composed), "overrides": [], "record": None}
    with (
        DiskCheckpointer(folder / "checkpoints", trainer.checkpoint, facts, state) as checkpointer,
        StopSignals() as stop,
    ):
        network = build(composed.model)
        return trainer.fit(**parts, network=network, monitor=monitor, checkpointer=checkpointer, stop=stop)


def train(folder, *overrides, killer):
    """The run, and how many attempts it took."""
    attempts = 1
    while True:
        try:
            return attempt(folder, overrides, killer), attempts
        except Killed:
            attempts += 1


CASES = {
    "adamw": (),
    "accumulated": ("trainer.gradient_accumulation_steps=4",),
    "adamw8bit": ("optimizer=adamw8bit",),
    "schedule_free": ("optimizer=schedule_free", "lr_schedule=constant"),
    "muon": ("optimizer=muon",),
    "uncertainty": ("weighting=uncertainty",),
    "infonoise": INFONOISE,
    "without ema": ("trainer.ema=null",),
    "rounded at random": (
        *BFLOAT16,
        "trainer.rounding=stochastic",
        "trainer.optimizer_in_backward=true",
        "trainer.max_grad_norm=null",
    ),
    "ema every second step": ("trainer.ema_every=2",),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_run_interrupted_up_to_three_times_equals_the_uninterrupted_run(tmp_path, case):
    uninterrupted, _ = train(
        tmp_path / "uninterrupted", *CASES[case], "trainer.checkpoint.every=null", killer=KillingMonitor()
    )
    assert saved_steps(tmp_path / "uninterrupted" / "checkpoints") == []
    for count, steps in enumerate(([5], [3, 8], [1, 4, 9]), start=1):
        killer = KillingMonitor(steps)
        again, attempts = train(tmp_path / str(count), *CASES[case], killer=killer)
        assert attempts == count + 1
        assert_same(again, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_every_optimizer_resumes_to_the_bit(tmp_path, optimizer):
    overrides = (f"optimizer={optimizer}", *BY_OPTIMIZER.get(optimizer, ()), "trainer.validate_every=100")
    uninterrupted, _ = train(tmp_path / "uninterrupted", *overrides, killer=KillingMonitor())
    again, attempts = train(tmp_path / "again", *overrides, killer=KillingMonitor([5]))
    assert attempts == 2
    assert_same(again, uninterrupted)


def test_losses_of_an_interrupted_run_equal_those_of_the_uninterrupted_run(tmp_path):
    uninterrupted, interrupted = KillingMonitor(), KillingMonitor([3, 6])
    train(tmp_path / "uninterrupted", killer=uninterrupted)
    train(tmp_path / "again", killer=interrupted)
    assert interrupted.losses == uninterrupted.losses


def test_run_interrupted_at_an_epochs_end_equals_the_uninterrupted_run(tmp_path):
    """1,625 images are 6.3 batches of 256: step 7 holds the border."""
    overrides = ("trainer.batch_size=256", "trainer.steps=9", "model.width=16", "trainer.checkpoint.every=1")
    uninterrupted, _ = train(tmp_path / "uninterrupted", *overrides, killer=KillingMonitor())
    again, attempts = train(tmp_path / "again", *overrides, killer=KillingMonitor([3, 6, 7]))
    assert attempts == 4
    assert_same(again, uninterrupted)


def test_run_interrupted_inside_an_accumulated_batch_equals_the_uninterrupted_run(tmp_path, monkeypatch):
    uninterrupted, _ = train(
        tmp_path / "uninterrupted", "trainer.gradient_accumulation_steps=4", killer=KillingMonitor()
    )
    calls, terms = itertools.count(), Objective.terms

    def interrupted(self, *arguments, **mask):
        if next(calls) in (4 * 5 + 2, 4 * 8 + 3):
            raise Killed
        return terms(self, *arguments, **mask)

    monkeypatch.setattr(Objective, "terms", interrupted)
    again, attempts = train(tmp_path / "again", "trainer.gradient_accumulation_steps=4", killer=KillingMonitor())
    assert attempts == 3
    assert_same(again, uninterrupted)


def test_run_interrupted_between_validation_and_save_equals_the_uninterrupted_run(tmp_path):
    overrides = ("trainer.checkpoint.every=3", "trainer.checkpoint.keep_best=true", "optimizer=schedule_free")
    uninterrupted, _ = train(tmp_path / "uninterrupted", "optimizer=schedule_free", killer=KillingMonitor())
    again, attempts = train(tmp_path / "again", *overrides, killer=KillingMonitor(validations=[0, 3, 6]))
    assert attempts == 4
    assert_same(again, uninterrupted)


@pytest.mark.parametrize("keep_best", ["true", "false"])
def test_newest_every_nth_and_best_states_are_kept(tmp_path, keep_best):
    overrides = ("trainer.steps=8", "trainer.checkpoint.every=1", "trainer.checkpoint.keep_every=3")
    train(
        tmp_path, *overrides, f"trainer.checkpoint.keep_best={keep_best}", "optimizer.lr=1e-9", killer=KillingMonitor()
    )
    kept_steps = {3, 6, 7, 8}
    if keep_best == "true":
        kept_steps |= {0, read_best(tmp_path / "checkpoints").step}  # 0 was the best once, and is a multiple of 3
    assert set(saved_steps(tmp_path / "checkpoints")) == kept_steps


def test_broken_newest_state_is_reported_and_the_previous_one_used(tmp_path, capsys):
    killer = KillingMonitor([9])
    with pytest.raises(Killed):
        attempt(tmp_path, (), killer)
    newest = file_of(tmp_path / "checkpoints", 8)
    content = bytearray(newest.read_bytes())
    content[-9] ^= 1
    newest.write_bytes(content)
    again, _ = train(tmp_path, killer=KillingMonitor())
    assert f"{newest} cannot be used: checksum mismatch" in capsys.readouterr().err
    assert_same(again, train(tmp_path / "uninterrupted", killer=KillingMonitor())[0])


def test_different_config_is_shown_and_refused_unless_allowed(tmp_path):
    with pytest.raises(Killed):
        attempt(tmp_path, (), KillingMonitor([5]))
    now = result_config(compose(*SMALL, *SETTINGS, "optimizer.weight_decay=0.5", "trainer.log_every=1"))
    with pytest.raises(ConfigError, match=r"a different config:\n  optimizer\.weight_decay: 0\.01 -> 0\.5\nUse allow"):
        find_state("auto", False, tmp_path, now, ())
    assert find_state("auto", True, tmp_path, now, ()).step == 4
    assert find_state("never", False, tmp_path, now, ()) is None
    assert not (tmp_path / "checkpoints").exists()
    assert find_state(str(tmp_path / "checkpoints.1" / "step_00000004.safetensors"), True, tmp_path, now, ()).step == 4
    with pytest.raises(CheckpointError, match="has no valid checkpoint"):
        find_state(str(tmp_path), False, tmp_path, now, ())


def test_changed_setting_takes_its_new_value_and_learned_ones_stay(tmp_path):
    from ztsnr.checkpoints.state import optimizer_state, restore_optimizer, settings_of
    from ztsnr.training.optim import make_optimizer

    def prodigy(decay):
        composed = compose("optimizer=prodigy", f"optimizer.weight_decay={decay}", "trainer.groups.no_decay=[]")
        network = torch.nn.Linear(3, 3)
        return make_optimizer(build(composed.optimizer), network, build(composed.trainer.groups)), network

    first, network = prodigy(0.1)
    initial_settings = settings_of(first)
    for _ in range(9):
        first.zero_grad()
        network(torch.ones(1, 3)).square().sum().backward()
        first.step()
    second, _ = prodigy(0.3)
    restore_optimizer(second, optimizer_state(first, initial_settings))
    group = second.param_groups[0]
    assert group["weight_decay"] == 0.3
    assert group["d"] == first.param_groups[0]["d"] != initial_settings[0]["d"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.width=32", "its network does not fit: .* is torch.float32"),
        ("model.depth=2", "its network does not match"),
        ("optimizer=lion", "it holds the state of AdamW, not of Lion"),
        ("weighting=uncertainty", "its learned part of the objective does not match"),
        ("trainer.steps=3", r"trainer\.steps must be at least 4"),
    ],
)
def test_state_that_does_not_fit_the_run_is_refused(tmp_path, override, message):
    with pytest.raises(Killed):
        attempt(tmp_path, (), KillingMonitor([5]))
    composed = compose(*SMALL, *SETTINGS, override)
    trainer, parts = build(composed.trainer), {name: build(composed[name]) for name in PARTS}
    state = find_state("auto", True, tmp_path, result_config(composed), ())
    with (
        DiskCheckpointer(tmp_path / "checkpoints", trainer.checkpoint, {}, state) as checkpointer,
        pytest.raises((CheckpointError, ConfigError), match=message),
    ):
        trainer.fit(**parts, network=build(composed.model), monitor=Monitor(), checkpointer=checkpointer)


def on_processes(folder, overrides, kills, name):
    AcceleratorState._reset_state(reset_partial_state=True)  # inherited from the test's own process
    torch.set_num_threads(1)
    try:
        trained = attempt(folder, overrides, KillingMonitor(kills))
    except Killed:
        PartialState().wait_for_everyone()
        return
    if PartialState().is_main_process:
        torch.save(tensors(trained), folder / name)


@pytest.mark.slow
def test_two_processes_resume_to_the_bit_and_one_process_resumes_from_two(tmp_path):
    """From two to one only the order of sums differs: the same data and noise, hence almost the same weights."""
    for kills, name in (((), "uninterrupted"), ((5,), "killed"), ((), "again")):
        folder = tmp_path / ("uninterrupted" if name == "uninterrupted" else "again")
        folder.mkdir(exist_ok=True)
        if name == "again":
            one_folder = tmp_path / "one_process"
            (one_folder / "checkpoints").mkdir(parents=True)
            newest = file_of(folder / "checkpoints", 4)
            (one_folder / "checkpoints" / newest.name).write_bytes(newest.read_bytes())
        debug_launcher(on_processes, (folder, (), kills, name), num_processes=2)
    uninterrupted = torch.load(tmp_path / "uninterrupted" / "uninterrupted")
    again = torch.load(tmp_path / "again" / "again")
    assert [key for key in uninterrupted if not torch.equal(uninterrupted[key], again[key])] == []
    one, _ = train(tmp_path / "one_process", killer=KillingMonitor())
    torch.testing.assert_close(tensors(one), uninterrupted, atol=1e-4, rtol=1e-3)


class SignallingMonitor(Monitor):
    """Sends this process a signal after step 5."""

    def stepped(self, step, loss, norm, lr):
        if step == 5:
            os.kill(os.getpid(), signal.SIGUSR1)


def test_signal_stops_fit_after_the_step_with_its_state_saved(tmp_path):
    with pytest.raises(Interrupted, match="SIGUSR1 stopped the run after step 5; its state is saved"):
        attempt(tmp_path, ("trainer.checkpoint.every=null",), SignallingMonitor())
    assert saved_steps(tmp_path / "checkpoints") == [5]


def signalled(folder, name):
    """Only the second process receives a signal."""
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(1)

    class Sender(Monitor):
        def stepped(self, step, loss, norm, lr):
            if step == 5 and not PartialState().is_main_process:
                os.kill(os.getpid(), signal.SIGUSR1)

    try:
        attempt(folder, ("trainer.checkpoint.every=null",), Sender())
    except Interrupted as error:
        (folder / f"{name}{PartialState().process_index}").write_text(str(error))


@pytest.mark.slow
def test_signal_to_one_process_stops_all_after_the_same_step(tmp_path):
    debug_launcher(signalled, (tmp_path, "ended"), num_processes=2)
    assert saved_steps(tmp_path / "checkpoints") == [5]
    messages = [(tmp_path / f"ended{process}").read_text() for process in range(2)]
    assert messages == [f"{name} stopped the run after step 5; its state is saved" for name in ("A signal", "SIGUSR1")]
