"""Old names of keys, options and values: refused with the new name, upgraded in files."""

import pytest
from omegaconf import OmegaConf

from ztsnr.config import renamed
from ztsnr.config.registry import compose, options
from ztsnr.core.errors import ConfigError

OVERRIDES = ("data=folder", "data.root=images", "model=sdxl", "model.pretrained=sdxl", "model/train=lora")
ABSENT = object()


@pytest.fixture
def tables(monkeypatch):
    """Tables of one entry each."""
    monkeypatch.setattr(renamed, "RENAMED_KEYS", {"trainer.old": "trainer.steps", "old": "objective.new"})
    monkeypatch.setattr(renamed, "RENAMED_OPTIONS", {("quality", "old"): "none"})
    monkeypatch.setattr(renamed, "RENAMED_VALUES", {("trainer.rounding", "old"): "nearest"})


def test_conf_has_every_new_key_and_no_old_one():
    config = compose(*OVERRIDES)
    for old, new in renamed.RENAMED_KEYS.items():
        assert OmegaConf.select(config, old, default=ABSENT) is ABSENT, old
        *groups, name = new.split(".")
        assert name in OmegaConf.select(config, ".".join(groups)), new


def test_conf_has_every_new_option_and_no_old_one():
    for (group, old), new in renamed.RENAMED_OPTIONS.items():
        assert new in options(group)
        assert old not in options(group)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.old=3", "^trainer.old is now trainer.steps$"),
        ("++trainer.old=1,2", "^trainer.old is now trainer.steps$"),
        ("quality=old", "^quality=old is now quality=none$"),
        ("quality=frechet,old", "^quality=old is now quality=none$"),
        ("trainer.rounding=old", "^trainer.rounding=old is now trainer.rounding=nearest$"),
    ],
)
def test_an_old_name_on_the_command_line_is_refused_with_the_new_one(tables, word, message):
    with pytest.raises(ConfigError, match=message):
        renamed.refuse_renamed(["seed=1", word])


@pytest.mark.parametrize("word", ["trainer.steps=3", "quality=none", "seed=range(0,3)", "optimizer.lr=interval(0.1,1)"])
def test_a_name_of_today_is_accepted(tables, word):
    renamed.refuse_renamed([word])


def test_upgrading_moves_values_in_a_copy(tables):
    config = {"trainer": {"old": 3, "rounding": "old"}, "old": [1], "objective": {}}
    assert renamed.upgrade_keys(config) == {
        "trainer": {"steps": 3, "rounding": "nearest"},
        "objective": {"new": [1]},
    }
    assert config["trainer"] == {"old": 3, "rounding": "old"}


def test_recorded_overrides_are_upgraded(tables):
    words = ["trainer.old=3", "+quality=old", "trainer.rounding=old", "seed=1", "~trainer.old", "samples.file='a=b'"]
    assert renamed.upgrade_overrides(words) == [
        "trainer.steps=3",
        "+quality=none",
        "trainer.rounding=nearest",
        "seed=1",
        "~trainer.steps",
        "samples.file='a=b'",
    ]
