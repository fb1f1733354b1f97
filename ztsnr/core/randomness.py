"""Every random number of a run, as a function of (seed, stream, step, row): no state, so nothing to save.

A row is the index of a sample in the step's batch over all processes. Which process computes it, and in which part of
an accumulated batch, changes nothing: resumed, re-sharded and paired runs get the same numbers.
"""

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

BLOCK = 2**14
"""About how many normal numbers one generator draws: few enough to waste little at the ends of a process's rows."""


def generator(seed: int, stream: str, *index: int) -> torch.Generator:
    key = hashlib.blake2b(repr((seed, stream, *index)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(key, "little", signed=True))


def seed_torch(seed: int, stream: str, *index: int) -> None:
    """Seeds torch's own generators, on every device: which dropout and stochastic rounding use."""
    torch.manual_seed(generator(seed, stream, *index).initial_seed())


def normal(seed: int, stream: str, step: int, rows: range, shape: tuple[int, ...]) -> Tensor:
    """N(0, 1), (len(rows), *shape) float32."""
    size = max(1, BLOCK // torch.Size(shape).numel())
    first = rows.start // size
    last = -(-rows.stop // size)  # rounded up
    blocks = [torch.randn(size, *shape, generator=generator(seed, stream, step, i)) for i in range(first, last)]
    return torch.cat(blocks)[rows.start - first * size :][: len(rows)]


def uniform(seed: int, stream: str, step: int, rows: range, batch: int) -> Tensor:
    """U[0, 1), (len(rows),) float64, of the `batch` numbers of this step."""
    return torch.rand(batch, generator=generator(seed, stream, step), dtype=torch.float64)[rows.start : rows.stop]


def stratified(seed: int, stream: str, step: int, rows: range, batch: int) -> Tensor:
    """U[0, 1), (len(rows),) float64, one of the step's numbers in each of `batch` equal strata (arXiv 2107.00630)."""
    source = generator(seed, stream, step)
    strata = torch.randperm(batch, generator=source)
    return ((strata + torch.rand(batch, generator=source, dtype=torch.float64)) / batch)[rows.start : rows.stop]


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> Tensor:
    return torch.randperm(size, generator=generator(seed, "order", epoch))


def order(seed: int, positions: range, size: int) -> Tensor:
    """The indices of `size` items at these positions of an endless sequence of shuffled epochs, (len(positions),)."""
    parts = []
    position = positions.start
    while position < positions.stop:
        epoch, first = divmod(position, size)
        parts.append(_permutation(seed, epoch, size)[first : first + positions.stop - position])
        position += len(parts[-1])
    return torch.cat(parts)
