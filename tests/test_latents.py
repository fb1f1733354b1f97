import pytest
import torch

from ztsnr.caching.latents import AdaptiveBatches
from ztsnr.core.errors import CacheError


def test_adaptive_batches_halve_when_out_of_memory_and_grow_back():
    tried, room = [], 5

    def work(items):
        tried.append(len(items))
        if len(items) > room:
            raise torch.OutOfMemoryError
        return {"x": torch.tensor(list(items))}

    parts = AdaptiveBatches(16)
    assert parts.map(100, work)["x"].tolist() == list(range(100))
    assert tried[:3] == [16, 8, 4]
    room = 99
    parts.map(400, work)
    assert max(tried[-8:]) == 16
    room = 0
    with pytest.raises(CacheError, match=r"data\.encoding\.tile"):
        parts.map(3, work)


def test_adaptive_batches_raise_errors_other_than_out_of_memory():
    def work(items):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        AdaptiveBatches(4).map(3, work)
