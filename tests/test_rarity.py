import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztsnr.caching.rarity import Rarity
from ztsnr.core.errors import ConfigError

TAGS = st.lists(st.frozensets(st.sampled_from("abcdef"), max_size=4), min_size=1, max_size=30)


def rarity(**settings):
    return Rarity(**{"strength": 1.0, "low": 1e-9, "high": 1e9} | settings)


def test_tags_of_single_tag_images_get_equal_totals():
    tags = [frozenset("a")] * 8 + [frozenset("b")] * 2
    weights, commonest = rarity().weights(tags, np.ones(10, dtype=int))
    assert weights[:8].sum() == pytest.approx(weights[8:].sum())
    assert commonest["a"] == (8, pytest.approx(10 / 16))
    assert list(commonest) == ["a", "b"]


@given(TAGS, st.floats(0, 1))
def test_mean_weight_is_one_and_rarer_tags_weigh_more(tags, strength):
    times = np.arange(len(tags)) % 3
    weights, commonest = rarity(strength=strength).weights(tags, times)
    tagged = np.array([bool(own) for own in tags]) & (times > 0)
    if tagged.any():
        assert np.average(weights[tagged], weights=times[tagged]) == pytest.approx(1)
    ranked = [weight for _, weight in commonest.values()]
    assert ranked == sorted(ranked)
    assert (weights[[not own for own in tags]] == 1).all()


@given(TAGS)
def test_weights_are_bounded_and_equal_at_strength_0(tags):
    times = np.ones(len(tags), dtype=int)
    bounded, _ = rarity(low=0.8, high=1.1).weights(tags, times)
    assert (bounded >= 0.8).all()
    assert (bounded <= 1.1).all()
    np.testing.assert_allclose(rarity(strength=0.0).weights(tags, times)[0], 1)


@pytest.mark.parametrize(("key", "value"), [("strength", 2), ("low", 0), ("high", 0.5)])
def test_rarity_with_a_value_out_of_bounds_is_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=f"^{key} must be"):
        rarity(**{key: value})
