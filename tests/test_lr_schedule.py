import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztsnr.errors import ConfigError
from ztsnr.training.lr_schedule import Constant, Cosine


@given(warmup=st.integers(0, 50), steps=st.integers(1, 200))
def test_factors_are_in_the_unit_interval_and_rise_then_fall(warmup, steps):
    for schedule in (Constant(warmup=warmup), Cosine(warmup=warmup, final=0.1)):
        factors = [schedule.factor(step, steps) for step in range(steps)]
        assert all(0 < factor <= 1 for factor in factors)
        top = min(warmup, steps - 1)
        assert factors[: top + 1] == sorted(factors[: top + 1])
        assert factors[top:] == sorted(factors[top:], reverse=True)


def test_cosine_passes_through_its_closed_form():
    schedule = Cosine(warmup=0, final=0.0)
    assert [schedule.factor(step, 100) for step in (0, 50)] == pytest.approx([1, 0.5])
    assert Cosine(warmup=10, final=0.2).factor(10, 110) == 1
    assert Cosine(warmup=10, final=0.2).factor(60, 110) == pytest.approx(0.6)


@pytest.mark.parametrize("build", [lambda: Constant(warmup=-1), lambda: Cosine(warmup=1.5, final=0)])
def test_refusals(build):
    with pytest.raises(ConfigError, match=r"lr_schedule\.warmup"):
        build()
