"""conf/schema.json: what an editor completes and checks in a YAML."""

import json

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.helpers import ROOT, load_script, write_plug_in

SCRIPT = load_script("config_schema")
SCHEMA = json.loads((ROOT / "conf" / "schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
FILES = sorted([*(ROOT / "conf").rglob("*/*.yaml"), *(ROOT / "experiments").glob("*.yaml")])


def test_committed_schema_equals_the_generated_one():
    assert SCRIPT.config_schema() == SCHEMA, "run scripts/config_schema.py --write"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_file_of_conf_matches_the_schema(file):
    VALIDATOR.validate(yaml.safe_load(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "text",
    [
        "{_target_: ztsnr.core.weighting.MinSNR, gama: 5.0}",
        "{_target_: ztsnr.core.weighting.MinSNR, gamma: -1.0}",
        "{_target_: ztsnr.core.weighting.MinSNR, gamma: five}",
        "{_target_: ztsnr.core.weighting.MinSNR, base: {_target_: ztsnr.core.distance.MSE}}",
        "{trainer: {stepz: 3}}",
        "{trainer: {steps: 0}}",
        "{trainer: {compile: 1}}",
        "{defaults: [{override /weighting: min_snrr}]}",
        "{seed: one}",
    ],
)
def test_misspelt_key_wrong_type_or_value_out_of_bounds_fails_the_schema(text):
    assert not VALIDATOR.is_valid(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "{_target_: ztsnr.core.weighting.MinSNR, gamma: 5, floor: '${weighting.gamma}'}",
        "{_target_: my_plug_in.MyMinSNR, anything: 1}",
        "{trainer: {steps: 3}, seed: 2, defaults: [{override /weighting: min_snr}, _self_]}",
    ],
)
def test_interpolation_plug_in_or_partial_group_matches_the_schema(text):
    errors = [error for error in VALIDATOR.iter_errors(yaml.safe_load(text)) if error.validator != "enum"]
    assert errors == []


def test_options_of_a_custom_config_dir_are_in_the_schema(tmp_path):
    (tmp_path / "weighting").mkdir()
    (tmp_path / "weighting" / "mine.yaml").write_text("_target_: ztsnr.core.weighting.Unit\n", encoding="utf-8")
    schema = Draft202012Validator(SCRIPT.config_schema(tmp_path))
    assert schema.is_valid({"defaults": [{"override /weighting": "mine"}]})
    assert not VALIDATOR.is_valid({"defaults": [{"override /weighting": "mine"}]})


def test_keys_of_a_custom_class_are_in_the_schema(tmp_path, monkeypatch):
    folder = write_plug_in(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    schema = Draft202012Validator(SCRIPT.config_schema(folder))
    option = {"_target_": "my_plug_in.MyMinSNR", "gamma": 5.0}
    assert schema.is_valid(option)
    assert not schema.is_valid(option | {"gama": 5.0})
    assert not schema.is_valid(option | {"gamma": "abc"})
