"""A LoRA's training with interruptions is the same training, to the bit."""

import pytest
import torch
from safetensors import safe_open

from tests.helpers import Killed, KillingMonitor, assert_same
from tests.tiny import Latents, composed_for
from ztsnr.checkpoints.find import find_state
from ztsnr.checkpoints.saver import DiskCheckpointer
from ztsnr.checkpoints.state_file import file_of
from ztsnr.config.identity import result_config
from ztsnr.config.registry import build

PARTS = ("objective", "optimizer", "lr_schedule", "samples", "validation")
LORA = ("model/train=lora", "model.train.rank=64", "model.train.dropout=0.1", "trainer.steps=4")
LORA += ("samples.columns=1", "samples.steps=1", "validation.samples=4", "validation.sigmas=[1.0]")
CASES = {
    "adamw": (),
    "accumulated dora": ("model.train.dora=true", "trainer.gradient_accumulation_steps=2"),
    "adamw8bit": ("optimizer=adamw8bit",),
    "adamw8bit on a base of bfloat16": (
        "optimizer=adamw8bit",
        "trainer.mixed_precision=bf16",
        "model.train.base=bfloat16",
    ),
    "adamw8bit in the backward pass": (
        "optimizer=adamw8bit",
        "trainer.optimizer_in_backward=true",
        "trainer.max_grad_norm=null",
    ),
    "a base of 4 bits": ("trainer.mixed_precision=bf16", "model.train.base=4bit"),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("a red house\n")
    return path


def attempt(file, folder, overrides, killer, seed=0):
    """As a new process would; `seed` is of where the LoRA begins."""
    composed = composed_for(file, *LORA, "trainer.checkpoint.every=1", *overrides)
    trainer, parts = build(composed.trainer), {name: build(composed[name]) for name in PARTS}
    torch.manual_seed(seed)
    network = build(composed.model)
    state = find_state("auto", False, folder, result_config(composed), ())
    facts = {"config": result_config(composed), "overrides": [], "record": None}
    with DiskCheckpointer(folder / "checkpoints", trainer.checkpoint, facts, state) as checkpointer:
        return trainer.fit(**parts, data=Latents(), network=network, monitor=killer, checkpointer=checkpointer), state


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_lora_resumes_bit_for_bit(file, tmp_path, case):
    uninterrupted, _ = attempt(file, tmp_path / "uninterrupted", CASES[case], KillingMonitor())
    with pytest.raises(Killed):
        attempt(file, tmp_path / "again", CASES[case], KillingMonitor([3]))
    again, state = attempt(file, tmp_path / "again", CASES[case], KillingMonitor(), seed=1)
    assert state.step == 2
    assert_same(again, uninterrupted)
    assert all("lora_" in name for name in again.networks["raw"].state_dict())
    with safe_open(file_of(tmp_path / "again" / "checkpoints", 4), "pt") as saved:
        kinds = {saved.get_slice(name).get_dtype() for name in saved.keys()}  # noqa: SIM118 (it is not iterable)
    assert ("U8" in kinds) == ("8bit" in case)
