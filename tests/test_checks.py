import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pytest

from ztsnr.core import checks
from ztsnr.core.errors import ConfigError, IncompatibleObjective, ZtsnrError


@pytest.mark.parametrize(
    ("accepts", "bounds", "inside", "outside", "expected"),
    [
        (checks.number, {}, [0, -3, 2.5, 1e300, math.inf, -math.inf, np.float32(1)], [math.nan, True], "a number"),
        (checks.number, {"above": 0}, [math.inf], [0, "abc", None, [1.0], 1j], "a number above 0"),
        (checks.number, {"below": 1}, [-5, 0.999, -math.inf], [1, 2, math.inf], "a number below 1"),
        (checks.finite, {"above": 0}, [1e-300, 1], [0, -1, "abc", False, math.nan], "a number above 0"),
        (checks.finite, {"at_least": 0}, [0, 1], [-1e-300], "a number of at least 0"),
        (checks.finite, {"at_most": 1}, [-5, 1], [1.001], "a number of at most 1"),
        (checks.finite, {"above": 0, "below": 1}, [0.5], [0, 1], "a number above 0 and below 1"),
        (checks.finite, {"at_least": 0, "at_most": 1}, [0, 1], [-0.1, 1.1], "a number of at least 0 and of at most 1"),
        (checks.finite, {}, [0], [math.inf], "finite"),
        (checks.integer, {"at_least": 2}, [2, np.int64(7)], [1, 2.0, True, "2", math.nan], "an integer of 2 or more"),
        (checks.flag, {}, [True, False], [0, 1, "true", None], "true or false"),
        (checks.one_of, {"options": ["no", "bf16"]}, ["no"], ["fp8", None], "one of no, bf16"),
        (checks.instance, {"kind": bytes}, [b""], [1, None], "a bytes"),
    ],
)
def test_number_rejects_a_value_outside_its_bounds_by_key_and_value(accepts, bounds, inside, outside, expected):
    for value in inside:
        accepts("group.key", value, **bounds)
    for value in outside:
        with pytest.raises(ConfigError) as refusal:
            accepts("group.key", value, **bounds)
        assert str(refusal.value) == f"group.key must be {expected}, got {value!r}"


def test_instance_suggests_the_option_for_a_name_in_place_of_a_part():
    with pytest.raises(ConfigError, match="schedule/density=laplace"):
        checks.instance("schedule.density", "laplace", float)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, "a list of numbers") for value in (1, "1, 2", [], None, {1: 2})),
        *(([1, entry], f".*, got {entry!r}") for entry in (-1, math.inf, True, "2")),
    ],
)
def test_numbers_rejects_other_than_a_list_within_the_bounds(value, expected):
    checks.numbers("trainer.guidance", [1, 2.5], at_least=0)
    with pytest.raises(ConfigError, match=rf"trainer\.guidance must be {expected}"):
        checks.numbers("trainer.guidance", value, at_least=0)


def test_config_error_is_a_value_error_of_this_package():
    assert issubclass(IncompatibleObjective, ConfigError)
    assert issubclass(ConfigError, ZtsnrError)
    assert issubclass(ConfigError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Example(checks.Part):
    rate: checks.Positive
    size: checks.Count
    mode: Literal["a", "b"]
    flip: bool
    text: str
    levels: list[checks.Positive]
    shape: tuple[int, int]
    table: Mapping
    limit: float | None
    paths: str | list[str]
    level: Annotated[float, checks.Bounds(at_least=0, infinite=True)]


VALID = {"rate": 1, "size": 2, "mode": "a", "flip": True, "text": "", "levels": [1.5], "shape": [1, 2], "table": {}}
VALID |= {"limit": None, "paths": "x", "level": math.inf}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rate", 0, "a number above 0"),
        ("rate", math.inf, "finite"),
        ("size", True, "an integer of 1 or more"),
        ("mode", "c", "one of a, b"),
        ("flip", 1, "true or false"),
        ("text", None, "a text"),
        ("levels", 1.5, "a list of numbers, such as [1, 2]"),
        ("levels", [0], "a number above 0"),
        ("shape", [1], "a list of 2 integers"),
        ("table", [], "a mapping, such as {key: value}"),
        ("limit", "x", "a number"),
        ("paths", 1, "a text or a list of values, such as [a, b]"),
        ("level", -1, "a number of at least 0"),
    ],
)
def test_part_rejects_a_field_that_is_not_of_its_annotation(field, value, message):
    Example(**VALID)
    with pytest.raises(ConfigError) as error:
        Example(**VALID | {field: value})
    bad_value = value[0] if message == "a number above 0" and isinstance(value, list) else value
    assert str(error.value) == f"{field} must be {message}, got {bad_value!r}"


def test_key_is_full_inside_the_node_that_is_built_and_that_of_the_node_referred_to():
    with checks.constructing("schedule.density", {"table": "schedule.table"}):
        assert (checks.key("sigma_max"), checks.key("table")) == ("schedule.density.sigma_max", "schedule.table")
    assert checks.key("sigma_max") == "sigma_max"
