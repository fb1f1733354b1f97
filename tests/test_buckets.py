"""The plan and the order of its batches hold for any images."""

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztsnr.caching.buckets import TOO_LONG, TOO_SMALL, USED, AutoSizes, Sizes, make_plan
from ztsnr.core.errors import ConfigError
from ztsnr.data.order import Leftovers, Order, order_of
from ztsnr.data.permutation import permuted

AUTO = AutoSizes(step=64, resolution=1024, max_aspect=4.0)
SIDES = st.integers(1, 4000)
IMAGES = st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=60)
LIMITS = {"max_aspect": 4.0, "max_upscale": 2.0}


def planned(images, counts=None, sizes=AUTO, min_samples=1, **limits):
    array = np.array(images, dtype=np.int64)
    counts = np.ones(len(array), dtype=np.int64) if counts is None else np.array(counts)
    return make_plan(array, counts, sizes.all(), **LIMITS | limits, min_samples=min_samples)


def test_automatic_sizes_are_multiples_of_the_step_within_area_and_aspect():
    sizes = np.array(AUTO.all())
    assert (sizes % 64 == 0).all()
    assert (sizes.prod(1) <= 1024**2).all()
    assert (sizes.prod(1) > 0.85 * 1024**2).all()
    assert (sizes.max(1) / sizes.min(1) <= 4).all()
    assert (1024, 1024) in AUTO.all()
    assert {size[::-1] for size in AUTO.all()} == set(AUTO.all())


@given(IMAGES, st.sampled_from([1, 4, 16]))
def test_every_image_is_in_one_bucket_or_left_out_with_a_reason(images, min_samples):
    plan = planned(images, min_samples=min_samples)
    assert ((plan.bucket >= 0) == (plan.fate == USED)).all()
    assert set(plan.bucket[plan.bucket >= 0]) == set(range(len(plan.sizes)))
    assert set(map(tuple, plan.sizes.tolist())) <= set(AUTO.all())
    for (height, width), fate in zip(images, plan.fate, strict=True):
        assert (fate == TOO_LONG) == (max(height, width) > 4 * min(height, width) * (1 + 1e-9))
    assert (plan.upscaled[plan.fate == USED] <= 2).all()
    assert (plan.upscaled[plan.fate == TOO_SMALL] > 2).all()


@given(IMAGES)
def test_image_goes_to_the_bucket_of_nearest_aspect(images):
    plan = planned(images, max_upscale=math.inf)
    aspects = np.log([width / height for height, width in AUTO.all()])
    for (height, width), bucket in zip(images, plan.bucket, strict=True):
        if bucket >= 0:
            aspect, target = math.log(width / height), plan.sizes[bucket]
            nearest = np.abs(aspects - aspect).min()
            assert abs(math.log(target[1] / target[0]) - aspect) == pytest.approx(nearest, abs=1e-9)


@given(IMAGES, st.randoms())
def test_plan_does_not_depend_on_the_order_of_files(images, random):
    order = list(range(len(images)))
    random.shuffle(order)
    plan, reordered = planned(images, min_samples=4), planned([images[i] for i in order], min_samples=4)
    assert (plan.sizes == reordered.sizes).all()
    assert (plan.bucket[order] == reordered.bucket).all()


@given(IMAGES, st.integers(1, 20))
def test_merging_leaves_no_bucket_below_a_batch_unless_it_is_the_last(images, min_samples):
    plan = planned(images, min_samples=min_samples)
    counts = np.bincount(plan.bucket[plan.bucket >= 0], minlength=len(plan.sizes))
    assert len(counts) <= 1 or (counts >= min_samples).all()
    assert not plan.merged[plan.fate != USED].any()


def test_merging_counts_repeats_and_ignores_held_out_images():
    shapes = [(1024, 1024)] * 3 + [(832, 1216)]
    assert len(planned(shapes, [1, 1, 1, 3], min_samples=3).sizes) == 2
    assert len(planned(shapes, [1, 1, 1, 1], min_samples=3).sizes) == 1
    assert len(planned(shapes, [2, 1, 0, 0], min_samples=3).sizes) == 2  # one of them only to validate


@given(st.tuples(SIDES, SIDES), st.floats(0, 0.999), st.floats(0, 0.999))
def test_a_view_lies_inside_the_resized_image_and_fills_its_bucket(size, down, right):
    plan = planned([size], max_upscale=math.inf, max_aspect=math.inf)
    view = plan.view(0, size, (down, right), False)
    assert all(c >= 0 and c + s <= r for c, s, r in zip(view.crop, view.size, view.resized, strict=True))
    assert any(r == s for r, s in zip(view.resized, view.size, strict=True))
    expected = size[0] * view.resized[1] / size[1]
    assert abs(view.resized[0] - expected) <= 0.51 + 0.51 * size[0] / size[1] or max(size) > 1000 * min(size)


def test_plan_measures_the_cropped_share_and_the_upscaling():
    plan = planned([(1000, 2000)], sizes=Sizes(step=64, sizes=[[1024, 1024]]))
    assert plan.cropped[0] == pytest.approx(0.5)
    assert plan.upscaled[0] == pytest.approx(1.024)
    assert plan.view(0, (1000, 2000), (0.5, 0.5), False).crop == (0, 512)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sizes(step=64, sizes=[[100, 64]]), "sizes must be pairs of multiples of 64"),
        (lambda: AutoSizes(step=64, resolution=32, max_aspect=4), "resolution must be an integer of 64"),
        (lambda: AutoSizes(step=64, resolution=512, max_aspect=0.5), "max_aspect must"),
        (lambda: Order(counts=(3, 2), batches=(4, 4), leftovers="drop", seed=0), "No bucket fills a batch"),
        (lambda: Order(counts=(3,), batches=(4,), leftovers="keep", seed=0), "leftovers must be one of merge"),
    ],
)
def test_sizes_and_order_with_a_wrong_value_are_refused_by_name(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@given(st.integers(1, 5000), st.integers(0, 3))
def test_shuffled_epoch_has_every_item_once(size, epoch):
    shuffled = permuted(1, "x", epoch, np.arange(size), size)
    assert sorted(shuffled) == list(range(size))
    assert (shuffled[7:9] == permuted(1, "x", epoch, np.arange(size)[7:9], size)).all()


def test_shuffle_is_uncorrelated_with_the_order_and_uniform_over_epochs():
    size = 2**14 + 11
    shuffled = permuted(0, "x", 0, np.arange(size), size)
    assert abs(np.corrcoef(np.arange(size), shuffled)[0, 1]) < 0.02
    assert abs(np.corrcoef(shuffled[1:], shuffled[:-1])[0, 1]) < 0.02
    assert (shuffled == np.arange(size)).sum() < 8
    epochs = np.stack([permuted(0, "x", epoch, np.array([5]), 64) for epoch in range(2000)])
    assert np.bincount(epochs.ravel(), minlength=64).std() < 1.3 * math.sqrt(2000 / 64)


LEFTOVERS = get_args(Leftovers)
COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(sum)


@pytest.mark.parametrize(("step", "batches"), [(None, (6, 6, 6)), (1, (6, 13, 24)), (4, (6, 12, 24)), (32, (6, 6, 6))])
def test_batches_of_smaller_buckets_are_multiples_of_batch_size_step(step, batches):
    sizes = np.array([[64, 64], [32, 56], [32, 32]])
    counts = np.array([9, 9, 9])
    order = order_of(sizes, counts, batch_size=6, batch_size_step=step, leftovers="merge", seed=0)
    assert order.batches == batches


def samples_of(order, steps):
    """[(bucket, samples), ...]"""
    return [order.batch(step, range(order.size(step))) for step in range(*steps)]


@given(COUNTS, st.integers(1, 9), st.sampled_from(LEFTOVERS))
def test_an_epoch_shows_each_sample_as_often_as_its_policy_says(counts, size, leftovers):
    if leftovers == "drop" and not any(count >= size for count in counts):
        return
    order = Order(counts=tuple(counts), batches=(size,) * len(counts), leftovers=leftovers, seed=0)
    epochs = size if leftovers == "merge" else 1  # after which nothing is carried over
    steps = sum(int(order.steps(epoch).sum()) for epoch in range(epochs))
    assert {order.size(step) for step in range(steps)} == order.sizes()
    occurrences = {(b, s): 0 for b, count in enumerate(counts) for s in range(count)}
    steps_of = np.zeros(len(counts))
    for bucket, samples in samples_of(order, (0, steps)):
        steps_of[bucket] += 1
        for sample in samples:
            occurrences[bucket, sample] += 1
    for bucket, count in enumerate(counts):
        times = [occurrences[bucket, s] for s in range(count)]
        if count:
            assert order.shown()[bucket] == pytest.approx(sum(times) / count / epochs)
            assert order.mean_steps()[bucket] == pytest.approx(steps_of[bucket] / epochs)
        if leftovers in ("merge", "partial"):
            assert set(times) <= {epochs}
        elif leftovers == "repeat" and count:
            assert sum(times) == -(-count // size) * size
            assert max(times) - min(times) <= 1
        elif count:
            assert sum(times) == count // size * size
            assert max(times) <= 1


@given(COUNTS, st.sampled_from(LEFTOVERS[:3]), st.integers(0, 10**9))
def test_rows_of_a_batch_equal_those_of_the_whole_batch(counts, leftovers, step):
    order = Order(counts=tuple(counts), batches=(4,) * len(counts), leftovers=leftovers, seed=3)
    bucket, batch = order.batch(step, range(order.size(step)))
    assert 0 < len(batch) <= 4
    middle = range(len(batch) // 2, len(batch))
    assert order.batch(step, middle)[0] == bucket
    assert (order.batch(step, middle)[1] == batch[middle.start :]).all()


def test_order_differs_between_epochs_and_seeds():
    def first(seed, start):
        order = Order(counts=(64, 64), batches=(8, 8), leftovers="merge", seed=seed)
        return [(b, tuple(s)) for b, s in samples_of(order, (start, start + 16))]

    assert first(0, 0) == first(0, 0)
    assert first(0, 0) != first(1, 0)
    assert first(0, 0) != first(0, 16)
