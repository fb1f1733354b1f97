import pytest

from ztsnr.caching.captions import Captions
from ztsnr.core.errors import ConfigError

PLAIN = {"variants": 1, "split_lines": False, "separator": ", ", "shuffle": False, "keep_tokens": 0}
PLAIN |= {"keep_separator": None, "tag_dropout": 0.0, "prefix": "", "suffix": ""}
TAGS = "a, b, c, d, e, f, g, h"


def texts(*captions, trigger="", digest=b"x", **settings):
    return Captions(**PLAIN | settings).texts(captions, trigger, digest)


def test_plain_caption_changes_only_in_white_space():
    assert texts("A photo, of  a cat.\nAsleep.") == ["A photo, of a cat. Asleep."]
    assert texts() == texts("  \n") == [""]
    assert texts("one", "two", "one") == ["one", "two"]
    assert texts("one\n\ntwo\n", split_lines=True) == ["one", "two"]


def test_trigger_comes_between_prefix_and_tags():
    assert texts("a, b", trigger="sks", prefix="best, ", suffix=".") == ["best, sks, a, b."]
    assert texts(trigger="sks") == ["sks"]


def test_shuffle_leaves_kept_tags_in_place():
    variants = texts(TAGS, shuffle=True, keep_tokens=2, variants=20)
    assert len(set(variants)) > 15
    for text in variants:
        tags = text.split(", ")
        assert tags[:2] == ["a", "b"]
        assert sorted(tags) == TAGS.split(", ")
    (caption,) = texts("a, b ||| c, d", keep_separator="|||")
    assert caption == "a, b, c, d"
    for text in texts("a, b ||| c, d, e, f", keep_separator="|||", shuffle=True, keep_tokens=1, variants=9):
        assert text.startswith("a, b, ")


def test_keep_tokens_counts_tags_before_the_separator():
    tags = "a, b ||| c, d, e, f"
    variants = texts(tags, keep_separator="|||", shuffle=True, keep_tokens=3, variants=20)
    assert all(text.startswith("a, b, c, ") for text in variants)
    assert {text.split(", ")[3] for text in variants} == {"d", "e", "f"}


def test_free_tags_are_dropped_at_the_configured_rate():
    variants = [texts(TAGS, tag_dropout=0.3, keep_tokens=1, digest=bytes([i, j])) for i in range(20) for j in range(20)]
    counts = [len(text.split(", ")) - 1 for (text,) in variants]
    assert sum(counts) / len(counts) / 7 == pytest.approx(0.7, abs=0.03)
    assert all(text.startswith("a") for (text,) in variants)


def test_wildcard_chooses_one_alternative_and_may_be_nested():
    variants = {text for i in range(200) for text in texts("a {red|{dark|light} blue} cat", digest=bytes([i]))}
    assert variants == {"a red cat", "a dark blue cat", "a light blue cat"}
    assert texts("{kept} as it is") == ["{kept} as it is"]


def test_caption_variants_depend_only_on_the_image_and_their_number():
    settings = {"shuffle": True, "variants": 3}
    assert texts(TAGS, **settings) == texts(TAGS, **settings)
    assert texts(TAGS, **settings)[:2] == texts(TAGS, shuffle=True, variants=2)
    assert texts(TAGS, **settings) != texts(TAGS, digest=b"y", **settings)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("variants", 0),
        ("keep_tokens", -1),
        ("tag_dropout", 1.0),
        ("shuffle", 1),
        ("separator", 3),
        ("split_lines", "no"),
    ],
)
def test_captions_with_a_wrong_value_are_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=f"^{key} must be"):
        texts("a", **{key: value})
