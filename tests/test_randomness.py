import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ztsnr.core.randomness import generator, normal, order, stratified, uniform


@given(batch=st.integers(1, 40), cut=st.integers(0, 40), width=st.sampled_from([1, 64, 5000, 2**16, 2**17]))
def test_rows_do_not_depend_on_how_a_batch_is_split(batch, cut, width):
    cut = min(cut, batch)
    for draw in (lambda rows: normal(3, "noise", 7, rows, (width,)), lambda rows: stratified(3, "u", 7, rows, batch)):
        parts = [draw(range(cut)), draw(range(cut, batch))] if 0 < cut < batch else [draw(range(batch))]
        assert torch.equal(torch.cat(parts), draw(range(batch)))


def test_noise_is_standard_normal():
    noise = normal(0, "noise", 0, range(500), (4, 8, 8)).flatten()
    assert stats.kstest(noise.numpy(), "norm").pvalue > 0.01


def test_streams_and_orders_differ_by_each_of_their_arguments():
    keys = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a", 0, 0)]
    first = {torch.rand(1, generator=generator(*key)).item() for key in keys}
    assert len(first) == len(keys)
    two_epochs = order(0, range(200), 100)
    assert not torch.equal(two_epochs[:100], two_epochs[100:])
    assert not torch.equal(two_epochs[:100], order(1, range(100), 100))


def test_drawing_does_not_change_the_global_generator():
    before = torch.random.get_rng_state()
    normal(0, "noise", 0, range(3), (2,)), stratified(0, "u", 0, range(3), 3), order(0, range(3), 5)
    assert torch.equal(before, torch.random.get_rng_state())


@given(seed=st.integers(0, 2**40), batch=st.integers(1, 300))
def test_each_stratum_has_one_draw(seed, batch):
    u = stratified(seed, "u", 5, range(batch), batch)
    assert torch.equal((u * batch).long().sort().values, torch.arange(batch))


def test_a_row_of_stratified_draws_is_uniform_over_steps_and_batches_vary_less():
    steps = [stratified(0, "u", step, range(16), 16) for step in range(800)]
    row = torch.stack([u[3] for u in steps])
    assert stats.kstest(row.numpy(), "uniform").pvalue > 0.01
    independent = [uniform(0, "u", step, range(16), 16) for step in range(800)]
    variance = [torch.stack([u.mean() for u in draws]).var().item() for draws in (steps, independent)]
    assert variance[0] < variance[1] / 50  # 1 / 12 B³ against 1 / 12 B


@given(size=st.integers(1, 50), start=st.integers(0, 200), length=st.integers(1, 120), seed=st.integers(0, 9))
def test_order_is_one_permutation_an_epoch_wherever_reading_starts(size, start, length, seed):
    long_order = order(seed, range(start + length + size), size)
    assert torch.equal(order(seed, range(start, start + length), size), long_order[start : start + length])
    assert torch.equal(long_order[:size].sort().values, torch.arange(size))
