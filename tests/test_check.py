import math

import numpy as np
import pytest

from ztsnr import check
from ztsnr.errors import ConfigError, IncompatibleObjective, ZtsnrError


@pytest.mark.parametrize("value", ["abc", None, True, False, math.nan, [1.0], 1j])
@pytest.mark.parametrize("accepts", [check.number, check.finite])
def test_what_is_no_number_is_refused_by_key_and_value(accepts, value):
    with pytest.raises(ConfigError) as refusal:
        accepts("density.b", value, above=0)
    assert str(refusal.value) == f"density.b must be a number above 0, got {value!r}"


@pytest.mark.parametrize("value", [0, -3, 2.5, 1e300, math.inf, -math.inf, np.float32(1)])
def test_a_number_without_bounds_may_be_any_real_and_infinite(value):
    check.number("x", value)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_finite_refuses_infinities(value):
    with pytest.raises(ConfigError, match=f"x must be finite, got {value}"):
        check.finite("x", value)


def test_infinity_passes_an_exclusive_lower_bound_and_not_an_upper_one():
    check.number("table.terminal", math.inf, above=0)
    with pytest.raises(ConfigError):
        check.number("x", math.inf, below=1)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "wanted"),
    [
        ({"above": 0}, [1e-300, 1], [0, -1], "a number above 0"),
        ({"at_least": 0}, [0, 1], [-1e-300], "a number of at least 0"),
        ({"below": 1}, [-5, 0.999], [1, 2], "a number below 1"),
        ({"at_most": 1}, [-5, 1], [1.001], "a number of at most 1"),
        ({"above": 0, "below": 1}, [0.5], [0, 1], "a number above 0 and below 1"),
        ({"at_least": 0, "at_most": 1}, [0, 0.5, 1], [-0.1, 1.1], "a number of at least 0 and of at most 1"),
    ],
)
def test_bounds_hold_and_are_told(bounds, inside, outside, wanted):
    for value in inside:
        check.finite("x", value, **bounds)
    for value in outside:
        with pytest.raises(ConfigError) as refusal:
            check.finite("x", value, **bounds)
        assert str(refusal.value) == f"x must be {wanted}, got {value!r}"


@pytest.mark.parametrize("value", [2, 1000, np.int64(7)])
def test_integers_pass(value):
    check.integer("table.steps", value, at_least=2)


@pytest.mark.parametrize("value", [1, 2.0, True, "2", None, math.nan])
def test_what_is_no_integer_in_range_is_refused(value):
    with pytest.raises(ConfigError) as refusal:
        check.integer("table.steps", value, at_least=1 + (value == 1))
    assert str(refusal.value).startswith("table.steps must be an integer of ")
    assert str(refusal.value).endswith(f"got {value!r}")


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_a_flag_is_a_bool_and_nothing_else(value):
    check.flag("timesteps.quantize", True)
    check.flag("timesteps.quantize", False)
    with pytest.raises(ConfigError, match=r"timesteps\.quantize must be true or false, got"):
        check.flag("timesteps.quantize", value)


def test_one_of_lists_the_options():
    check.one_of("trainer.precision", "bf16", ["no", "bf16"])
    with pytest.raises(ConfigError, match=r"trainer\.precision must be one of no, bf16, got 'fp8'"):
        check.one_of("trainer.precision", "fp8", ["no", "bf16"])


def test_instance_names_the_kind_and_the_value():
    check.instance("x", 1.5, float)
    with pytest.raises(ConfigError, match="target must be a dict, got 'v'"):
        check.instance("target", "v", dict)


def test_a_name_where_a_part_belongs_is_told_as_the_choice_it_may_be():
    with pytest.raises(ConfigError, match="schedule/density=laplace"):
        check.instance("schedule.density", "laplace", float)


@pytest.mark.parametrize("value", [1, "1, 2", [], None, {1: 2}])
def test_what_is_no_list_of_numbers_is_refused(value):
    check.numbers("trainer.guidance", [1, 2.5], at_least=0)
    with pytest.raises(ConfigError, match=r"trainer\.guidance must be a list of numbers"):
        check.numbers("trainer.guidance", value, at_least=0)


@pytest.mark.parametrize("entry", [-1, math.inf, True, "2"])
def test_each_entry_of_a_list_of_numbers_is_checked(entry):
    with pytest.raises(ConfigError, match=rf"trainer\.guidance must be .*, got {entry!r}"):
        check.numbers("trainer.guidance", [1, entry], at_least=0)


def test_refusals_are_value_errors_of_this_package():
    assert issubclass(IncompatibleObjective, ConfigError)
    assert issubclass(ConfigError, ZtsnrError)
    assert issubclass(ConfigError, ValueError)
