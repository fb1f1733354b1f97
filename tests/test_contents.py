import torch
from hypothesis import given
from hypothesis import strategies as st

from ztsnr.caching.contents import Moments, merged, stacked
from ztsnr.caching.latents import moments_of


def of(x):
    """Moments of x (N, C, ...) from its definition."""
    flat = x.double().transpose(0, 1).flatten(1)
    return Moments(flat.shape[1], flat.mean(1), (flat - flat.mean(1, keepdim=True)).square().sum(1))


def assert_same(moments, expected):
    assert moments.count == expected.count
    torch.testing.assert_close(moments.mean, expected.mean)
    torch.testing.assert_close(moments.distance, expected.distance)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(-1e6, 1e6))
def test_merged_moments_equal_those_of_all_data(sizes, offset):
    draw = torch.Generator().manual_seed(len(sizes))
    x = torch.randn(sum(sizes), 3, 4, 5, generator=draw).double() * 2 + offset
    assert_same(merged([of(part) for part in x.split(sizes)]), of(x))


def test_stacked_moments_count_repeats():
    x = torch.randn(7, 4, 6, 6, generator=torch.Generator().manual_seed(0)) + 5
    times = torch.tensor([1, 3, 1, 2, 1, 1, 4]).double()
    mean, distance = moments_of(x)
    assert_same(stacked(times * 36, mean, distance * times[:, None]), of(x.repeat_interleave(times.long(), 0)))


def test_pooled_moments_are_over_all_channels():
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + torch.arange(3)[:, None, None]
    assert_same(of(x).pooled, of(x.flatten(1)[:, None]))
    assert of(x).std.shape == (3,)
