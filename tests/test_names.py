"""Files name classes by a table that belongs to the format."""

import re

import pytest

from ztsnr.config.identity import differences, result_config, tracked_parameters
from ztsnr.config.names import CLASSES, OLD_PATHS, decode, downgrade, encode, upgrade
from ztsnr.config.registry import build, build_from_file, compose, conf_folder
from ztsnr.core.errors import CheckpointError
from ztsnr.core.target import V
from ztsnr.core.weighting import Unit

HOOKS = {"ztsnr.sweeps.callback.SweepRecord"}
"""Hydra's, which no file of ours names."""


def paths_in_conf():
    texts = [file.read_text() for file in conf_folder().rglob("*.yaml")]
    return {path for text in texts for path in re.findall(r"_target_: *([\w.]+)", text)}


def paths_in(node):
    if isinstance(node, dict):
        return [value for key, value in node.items() if key == "_target_"] + paths_in(list(node.values()))
    return [path for entry in node for path in paths_in(entry)] if isinstance(node, list) else []


def test_the_table_has_every_class_of_conf_once_and_no_other():
    assert set(CLASSES.values()) == paths_in_conf() - HOOKS
    assert len(set(CLASSES.values())) == len(CLASSES)


def test_every_path_of_0de1f9a_has_a_name_of_today():
    assert set(OLD_PATHS.values()) <= CLASSES.keys()


def test_a_recorded_config_holds_names_and_builds_the_same_objects():
    composed = compose("loss=novelai_v3", "optimizer=lion")
    recorded = result_config(composed)
    assert recorded["target"] == {"_class_": "target.v"}
    assert recorded["optimizer"]["_class_"] == "optimizer.lion"
    assert paths_in(recorded) == []
    for name in ("schedule", "target", "weighting", "distance", "trainer"):
        assert build_from_file(recorded[name], conf_folder()) == build(composed, name)


def test_decoding_undoes_encoding_and_a_plug_in_keeps_its_path():
    node = {
        "_target_": "ztsnr.core.weighting.Unit",
        "base": {"_target_": "my.Own", "list": [{"_target_": "torch.optim.AdamW"}]},
    }
    assert decode(encode(node)) == node
    assert encode(node)["base"]["_target_"] == "my.Own"


def test_a_config_of_0de1f9a_is_upgraded():
    old = {"weighting": {"_target_": "ztsnr.weighting.Unit", "base": {"_target_": "ztsnr.target.V"}}}
    old["trainer"] = {
        "_target_": "ztsnr.training.trainer.Trainer",
        "clip": 1.0,
        "checkpoint": {"on_save_error": "go_on"},
    }
    new = upgrade(old)
    assert new["weighting"] == {"_class_": "weighting.unit", "base": {"_class_": "target.v"}}
    assert new["trainer"]["max_grad_norm"] == 1.0
    assert new["trainer"]["checkpoint"]["on_save_error"] == "continue"
    assert upgrade(new) == new
    assert downgrade(new) == old
    assert build_from_file(old["weighting"], conf_folder()) == Unit(base=V())


def test_an_unknown_name_is_refused_with_the_file(tmp_path):
    with pytest.raises(CheckpointError, match=f"{tmp_path}.*'target.w'"):
        build_from_file({"_class_": "target.w"}, tmp_path)


def test_differences_shows_classes_by_name_under_the_key_of_their_node():
    before, after = (result_config(compose(f"loss={loss}")) for loss in ("vpred", "edm"))
    assert "target: target.v -> target.edm" in differences(before, after)


def test_a_trackers_parameters_hold_names_without_their_group():
    params = tracked_parameters(compose("weighting=min_snr"))
    assert params["weighting"] == "min_snr"
    assert params["optimizer"] == "adamw"
