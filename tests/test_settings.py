"""Keys of a cache are part of its format: these values are those of commit 0de1f9a."""

import pytest

from ztsnr.caching.decode import View
from ztsnr.caching.latents import view_key
from ztsnr.caching.shards import hashed
from ztsnr.config.registry import build, compose
from ztsnr.core.errors import ConfigError

SOURCE = ("model=sdxl", "model.pretrained=somewhere/sdxl", "data=folder", "data.root=/nowhere/images")
VIEW = View(resized=(70, 80), crop=(3, 0), size=(64, 80), flip=True)
DIGEST = b"\x01" * 16


def make_settings(*overrides):
    return build(compose(*SOURCE, *overrides, config="cache"), "data")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "69956a8e38c00bea5e877876de42e96d"),
        (
            ["data/sizes=sdxl", "data.leftovers=drop", "data.rarity.strength=0.5", "data.text_windows=2"],
            "4250c413de5e6dcf2b053178010a53f4",
        ),
        (
            [
                "model/train_text=lora",
                "data.captions.shuffle=true",
                "data.captions.keep_separator=x",
                "data.captions.split_lines=true",
                "data.encoding.tile=1024",
                "data.masks=files",
            ],
            "65a9d458792c9623eb26b04648368565",
        ),
        (
            [
                "data=webdataset",
                "data.folders=[{path: a.tar, repeats: 3, weight: 0.5}]",
                "data.crops=2",
                "data.flip=true",
            ],
            "445ea08cc80ea2e9745a2f03671ccdfb",
        ),
    ],
)
def test_index_names_equal_those_of_0de1f9a(overrides, name):
    assert make_settings(*overrides).index_name == f"index/{name}.safetensors"


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        (
            ("latent", DIGEST, view_key(VIEW), (255, 255, 255), ("draw", "float32", "float16", None), "0" * 32),
            "9d0571240d73f3cd5c02374eea3b34fc",
        ),
        (("mask", 8, DIGEST, "files", view_key(VIEW)), "cc860b5e069fc8493dbab9c675458776"),
        (("text", "a cat", 1, "float16", ("0" * 32, "1" * 32)), "1bf993deaadff09a8e7989584616c460"),
        (("tokens", "a cat", 1, "0" * 32), "cedb3580c574cba29bfc7397f6925e82"),
    ],
)
def test_entry_keys_equal_those_of_0de1f9a(parts, key):
    assert hashed(*parts).hex() == key


def test_settings_that_only_affect_training_keep_the_index_name():
    name = make_settings().index_name
    for override in ("data.caption_dropout=0.5", "data.latent_normalisation=channel", "data.batch_size_step=4"):
        assert make_settings(override).index_name == name
    assert make_settings("data.crops=2").index_name != name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.root=[]", r"^data\.root must be a path or a list of paths"),
        ("data.root=s3://bucket/cats", r"^data\.root=s3://bucket/cats: remote folders are not supported"),
        ("data.background=[0,0]", r"^data\.background must be a list of 3 numbers"),
        ("data.background=[0,0,256]", r"^data\.background must be a number of at least 0 and of at most 255"),
        ("data.held_out=0", r"^data\.held_out must be a number above 0"),
        ("data.encoding.tile=32", r"^data\.encoding\.tile must be an integer of 64 or more"),
        ("data.sizes.resolution=32", r"^data\.sizes\.resolution must be an integer of 64 or more"),
        ("data.captions.tag_dropout=1", r"^data\.captions\.tag_dropout must be a number of at least 0 and below 1"),
        ("data.folders=[{path: a, repeats: 0}]", r"^data\.folders\.repeats must be an integer of 1 or more"),
    ],
)
def test_wrong_setting_is_refused_with_the_full_key(override, message):
    with pytest.raises(ConfigError, match=message):
        make_settings(override)
