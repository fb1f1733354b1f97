import numpy as np
import pytest
import torch

from ztsnr.core.errors import ConfigError
from ztsnr.data import Digits, LabelledImages, Mnist, prepare

SETTINGS = {"shape": [1, 8, 8], "classes": 10, "held_out": 0.1, "label_dropout": 0.1, "seed": 0}


@pytest.fixture(scope="module")
def digits():
    return Digits(**SETTINGS)


class Shuffled(Digits):
    def images(self):
        images, labels = super().images()
        order = np.random.default_rng(0).permutation(len(labels))
        return images[order], labels[order]


def as_set(x0):
    return {image.numpy().tobytes() for image in x0}


@pytest.mark.parametrize(("make", "shape", "count"), [(Digits, [1, 8, 8], 1797), (Mnist, [1, 28, 28], 5000)])
def test_digits_have_ten_classes_and_the_unit_range(make, shape, count):
    data = make(**SETTINGS | {"shape": shape})
    assert len(data.train) + len(data.validation) == count
    assert list(data.train.x0.shape[1:]) == shape
    assert data.train.x0.min() == -1
    assert data.train.x0.max() == 1
    assert set(data.train.label.tolist()) == set(data.validation.label.tolist()) == set(range(10))


def test_held_out_depends_only_on_content_and_a_larger_share_contains_the_smaller(digits):
    shuffled = Shuffled(**SETTINGS)
    assert as_set(digits.validation.x0) == as_set(shuffled.validation.x0)
    assert not as_set(digits.train.x0) & as_set(digits.validation.x0)
    assert len(digits.validation) == pytest.approx(180, abs=40)
    larger = Digits(**SETTINGS | {"held_out": 0.3})
    assert as_set(digits.validation.x0) < as_set(larger.validation.x0)


def test_epoch_has_every_image_once(digits):
    data = Digits(**SETTINGS | {"label_dropout": 0.0})
    size = len(data.train)
    batches = [data.batch(step, range(1), 1) for step in range(size)]
    pairs = {(x0.numpy().tobytes(), label["label"].item()) for x0, label in batches}
    samples = zip(data.train.x0, data.train.label.tolist(), strict=True)
    assert pairs == {(x0.numpy().tobytes(), label) for x0, label in samples}


def test_rows_of_a_batch_equal_those_of_the_whole_batch(digits):
    x0, cond = digits.batch(9, range(32), 32)
    part, part_cond = digits.batch(9, range(8, 20), 32)
    assert torch.equal(part, x0[8:20])
    assert torch.equal(part_cond["label"], cond["label"][8:20])


def test_labels_are_dropped_at_the_configured_rate(digits):
    label = torch.cat([digits.batch(step, range(256), 256)[1]["label"] for step in range(40)])
    assert (label == digits.null_label).double().mean().item() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("shape", [1, 9, 9], r"data.shape must be \(1, 8, 8\)"),
        ("shape", "8x8", "shape must be a list"),
        ("classes", 9, "data.classes must be above 9"),
        ("held_out", 1.0, "held_out must"),
        ("label_dropout", -0.1, "label_dropout must"),
        ("seed", "x", "seed must be an integer"),
    ],
)
def test_labelled_images_with_a_wrong_value_are_refused_by_name(key, value, message):
    with pytest.raises(ConfigError, match=message):
        _ = Digits(**SETTINGS | {key: value}).train


def test_subclass_of_labelled_images_splits_its_own_images():
    class Blank(LabelledImages):
        def images(self):
            return np.linspace(0, 1, 40 * 4).reshape(40, 1, 2, 2), np.arange(40) % 3

    data = Blank(**SETTINGS | {"shape": [1, 2, 2], "classes": 3, "held_out": 0.5})
    assert 0 < len(data.train) < 40


def test_prepare_loads_the_images_and_checks_them():
    prepare(Digits(**SETTINGS))
    with pytest.raises(ConfigError, match=r"data\.shape must be \(1, 8, 8\)"):
        prepare(Digits(**SETTINGS | {"shape": [1, 9, 9]}))


def test_prepare_names_what_a_plug_in_lacks():
    class Incomplete:
        train = range(3)

        def batch(self, step, rows, batch_size): ...

    with pytest.raises(ConfigError, match=r"^data: Incomplete has no prepare, facts, .*write_report\. See"):
        prepare(Incomplete())
