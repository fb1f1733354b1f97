import json
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from tests.helpers import load_script
from ztsnr.checkpoints.policy import SavePolicy
from ztsnr.checkpoints.state import OPTIMIZER_NAMES, optimizer_state, restore, restore_optimizer, settings_of
from ztsnr.checkpoints.state_file import read_state, write_state
from ztsnr.checkpoints.tree import pack, unpack
from ztsnr.config.registry import build, compose, options
from ztsnr.core.errors import CheckpointError, ConfigError

POLICY = {"every": 10, "keep": 2, "keep_best": False, "keep_every": None, "on_save_error": "stop"}


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and (one.dtype, one.stride()) == (other.dtype, other.stride())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return type(one) is type(other) and (one == other or one != one)


def test_state_is_read_back_to_the_bit_and_in_its_memory_order(tmp_path):
    images = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    state = {
        "step": torch.tensor(3.0),
        "low": torch.randn(5).bfloat16(),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "turned": torch.randn(3, 4).T,
        "images": images,
        "nested": {"a.b": [1, 2.5, None, True, "x", (torch.zeros(0), float("nan"), float("inf"))], "c": {}},
        "dtype": torch.float64,
    }
    tree, tensors = pack(state, "state")
    write_state(tmp_path / "x.safetensors", 7, {"config": {}}, tree, tensors)
    read = read_state(tmp_path / "x.safetensors")
    assert read.step == 7
    assert same(read.parts, state)


@pytest.mark.parametrize("value", [{1: 2}, {3}, nn.Linear(1, 1), b"x", 1j])
def test_pack_names_a_value_that_cannot_be_saved(value):
    with pytest.raises(CheckpointError, match=r"state\.deep\.0 cannot be saved: it is a"):
        pack({"deep": [value]}, "state")


@pytest.mark.parametrize(
    "tree",
    [
        {"tensor": "no"},
        {"tensor": []},
        {"tensor": "t", "order": [0, 0]},
        {"tensor": "t", "order": [5]},
        {"dtype": "load"},
    ]
    + [{"dict": []}, {"tuple": {}}, {"x": 1}, {}, {"dict": {"x": {"_target_": "os.system"}}}],
)
def test_unpack_refuses_a_tree_that_pack_does_not_make(tree):
    with pytest.raises(CheckpointError):
        unpack(json.loads(json.dumps(tree)), {"t": torch.zeros(2, 3)})


def test_restore_refuses_other_names_shapes_and_types():
    live = {"weight": torch.zeros(2, 3)}
    for saved in ({}, None, {"weight": torch.zeros(3, 2)}, {"weight": torch.zeros(2, 3).half()}, {"weight": 0}):
        with pytest.raises(CheckpointError, match="its network"):
            restore(live, saved, "network")


@pytest.mark.parametrize(
    ("every", "seconds", "due"),
    [
        (10, 1e9, [10, 20]),
        ("90s", 89.0, []),
        ("90s", 90.0, [*range(21)]),
        ("2h", 7200.0, [*range(21)]),
        (None, 1e9, []),
    ],
)
def test_save_is_due_after_steps_or_seconds_or_never(every, seconds, due):
    policy = SavePolicy(**POLICY | {"every": every})
    assert [step for step in range(21) if policy.due(step, seconds)] == (due if every != 10 else [0, *due])


def test_steps_to_keep_are_the_newest_the_best_and_every_nth():
    policy = SavePolicy(**POLICY | {"keep_every": 30})
    assert policy.steps_to_keep([10, 20, 30, 40, 50], best=20) == {20, 30, 40, 50}
    assert SavePolicy(**POLICY).steps_to_keep([10, 20, 30], best=None) == {20, 30}


@pytest.mark.parametrize(
    "override", ["every=soon", "every=0", "keep=0", "keep_best=1", "on_save_error=x", "keep_every=-1"]
)
def test_save_policy_rejects_invalid_values(override):
    with pytest.raises(ConfigError, match=rf"trainer\.checkpoint\.{override.split('=')[0]} must be"):
        build(compose(f"trainer.checkpoint.{override}"), "trainer")


@pytest.mark.slow
def test_damaged_and_forged_files_raise_only_checkpoint_error(tmp_path):
    became = list(load_script("fuzz_checkpoint").fuzz(tmp_path, files=120, seed=1))
    assert len(became) == 120
    assert sum(message != "" for message in became) > 80


@pytest.mark.parametrize("option", options("optimizer"))
def test_every_optimizer_of_conf_has_a_name_in_files(option):
    package, *_, name = compose(f"optimizer={option}").optimizer._target_.split(".")
    assert (package, name) in OPTIMIZER_NAMES


class PluginOptimizer(torch.optim.SGD):
    """Not in conf/."""


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        (f"{__name__}.PluginOptimizer", True),
        ("PluginOptimizer", True),  # as 0de1f9a wrote it
        ("SGD", False),
        ("AdamW", False),
    ],
)
def test_plugin_optimizer_resumes_from_a_state_with_its_import_path_or_class_name(name, accepted):
    optimizer = PluginOptimizer([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    state = optimizer_state(optimizer, settings_of(optimizer))
    assert state["class"] == f"{__name__}.PluginOptimizer"
    with nullcontext() if accepted else pytest.raises(CheckpointError, match=f"holds the state of {name}, not of"):
        restore_optimizer(optimizer, state | {"class": name})
