import math

import numpy as np
import pytest

from ztsnr.core import checks
from ztsnr.core.errors import ConfigError, IncompatibleObjective, ZtsnrError


@pytest.mark.parametrize(
    ("accepts", "bounds", "inside", "outside", "wanted"),
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
        (checks.instance, {"kind": float}, [1.5], [1, None], "a float"),
    ],
)
def test_what_is_outside_is_refused_by_key_and_value(accepts, bounds, inside, outside, wanted):
    for value in inside:
        accepts("group.key", value, **bounds)
    for value in outside:
        with pytest.raises(ConfigError) as refusal:
            accepts("group.key", value, **bounds)
        assert str(refusal.value) == f"group.key must be {wanted}, got {value!r}"


def test_a_name_where_a_part_belongs_is_told_as_the_choice_it_may_be():
    with pytest.raises(ConfigError, match="schedule/density=laplace"):
        checks.instance("schedule.density", "laplace", float)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        *((value, "a list of numbers") for value in (1, "1, 2", [], None, {1: 2})),
        *(([1, entry], f".*, got {entry!r}") for entry in (-1, math.inf, True, "2")),
    ],
)
def test_what_is_no_list_of_numbers_in_range_is_refused(value, told):
    checks.numbers("trainer.guidance", [1, 2.5], at_least=0)
    with pytest.raises(ConfigError, match=rf"trainer\.guidance must be {told}"):
        checks.numbers("trainer.guidance", value, at_least=0)


def test_refusals_are_value_errors_of_this_package():
    assert issubclass(IncompatibleObjective, ConfigError)
    assert issubclass(ConfigError, ZtsnrError)
    assert issubclass(ConfigError, ValueError)
