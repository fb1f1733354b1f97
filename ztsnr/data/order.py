"""Which bucket a step trains, and which of its samples: index arithmetic, whatever the number of images."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ztsnr.core.errors import ConfigError
from ztsnr.data.permutation import permuted

Leftovers = Literal["merge", "repeat", "partial", "drop"]
"""What happens to a bucket's samples that fill no complete batch: they come first in its next epoch (and buckets
smaller than a batch were merged into others); their batch is filled up with the bucket's first; it stays smaller;
they are left out."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """An endless sequence of batches, each of one bucket. `counts` and `batches`: samples and batch size of each."""

    counts: tuple[int, ...]
    batches: tuple[int, ...]
    leftovers: Leftovers
    seed: int

    def __post_init__(self) -> None:
        if self.leftovers not in get_args(Leftovers):
            raise ConfigError(f"leftovers must be one of {', '.join(get_args(Leftovers))}, got {self.leftovers!r}")
        if self.leftovers == "drop" and not self.steps(0).sum():
            raise ConfigError(
                f"No bucket fills a batch: they hold {', '.join(map(str, self.counts))} samples. "
                f"Lower trainer.batch_size, or use data.leftovers=merge."
            )

    def steps(self, epoch: int) -> np.ndarray:
        """Batches of each bucket in this epoch, (K,) int64."""
        return self._before(epoch + 1) - self._before(epoch)

    def mean_steps(self) -> np.ndarray:
        """Batches of each bucket in an epoch, (K,) float64; fractions where samples are carried over."""
        counts, sizes = np.array(self.counts), np.array(self.batches)
        return counts / sizes if self.leftovers == "merge" else self.steps(0).astype(np.float64)

    def shown(self) -> np.ndarray:
        """How often an epoch shows a sample of each bucket, on average, (K,) float64."""
        if self.leftovers == "partial":
            return np.ones(len(self.counts))
        return self.mean_steps() * self.batches / np.maximum(self.counts, 1)

    def sizes(self) -> set[int]:
        """Of all batches."""
        sizes = set()
        for count, size in zip(self.counts, self.batches, strict=True):
            full, rest = divmod(count, size)
            if self.leftovers == "partial":
                sizes |= {size} if full else set()
                sizes |= {rest} if rest else set()
            elif full or (rest and self.leftovers != "drop"):
                sizes.add(size)
        return sizes

    def size(self, step: int) -> int:
        """Samples in the step's batch."""
        _, bucket, number = self._slot(step)
        return self._size(bucket, number)

    def batch(self, step: int, rows: range) -> tuple[int, np.ndarray]:
        """The step's bucket, and which of its samples, [0, count), these rows hold: (len(rows),) int64."""
        epoch, bucket, number = self._slot(step)
        if self.leftovers == "merge":  # a bucket's own epochs continue across those of the whole
            number += int(self._before(epoch)[bucket])
        positions = number * self.batches[bucket] + np.arange(rows.start, rows.stop)
        epochs, positions = np.divmod(positions, self.counts[bucket])
        if self.leftovers != "merge":
            epochs = np.full_like(epochs, epoch)

        samples = np.empty_like(positions)
        for own_epoch in np.unique(epochs):
            these = epochs == own_epoch
            samples[these] = permuted(
                self.seed, f"bucket {bucket}", int(own_epoch), positions[these], self.counts[bucket]
            )
        return bucket, samples

    def _size(self, bucket: int, number: int) -> int:
        count, size = self.counts[bucket], self.batches[bucket]
        return min(size, count - number * size) if self.leftovers == "partial" else size

    def _before(self, epoch: int) -> np.ndarray:
        """Batches of each bucket in all epochs before this one, (K,) int64."""
        counts, sizes = np.array(self.counts, dtype=np.int64), np.array(self.batches, dtype=np.int64)
        if self.leftovers == "merge":
            return epoch * counts // sizes
        return epoch * (counts // sizes if self.leftovers == "drop" else -(-counts // sizes))

    def _slot(self, step: int) -> tuple[int, int, int]:
        """The step's epoch, its bucket, and which of the bucket's batches in that epoch it is."""
        # the epoch: estimated from its mean number of steps, then corrected
        if self.leftovers == "merge":
            mean = sum(count / size for count, size in zip(self.counts, self.batches, strict=True))
        else:
            mean = self.steps(0).sum()
        epoch = int(step / mean)  # or, where batches are carried over, a little later
        while self._before(epoch).sum() > step:
            epoch -= 1
        while (end := self._before(epoch + 1).sum()) <= step:
            epoch += 1

        # which of the epoch's shuffled batches the step is, and whose
        ends = self.steps(epoch).cumsum()
        slot = int(permuted(self.seed, "buckets", epoch, np.array([step - end + ends[-1]]), int(ends[-1]))[0])
        bucket = int(np.searchsorted(ends, slot, side="right"))
        return epoch, bucket, slot - int(ends[bucket - 1] if bucket else 0)


def order_of(
    sizes: np.ndarray,
    counts: np.ndarray,
    *,
    batch_size: int,
    batch_size_step: int | None,
    leftovers: Leftovers,
    seed: int,
) -> Order:
    """The order of buckets of sizes (K, 2) with counts (K,) samples to train on.

    With a `batch_size_step`, a bucket's batch is the multiple of it, but at least `batch_size`, that has no more pixels
    than the largest bucket's.
    """
    batches = [batch_size] * len(sizes)
    if batch_size_step is not None:
        areas = sizes.astype(np.int64).prod(1)
        most = (batch_size * areas.max(initial=1) // areas).tolist()
        batches = [max(batch_size, size // batch_size_step * batch_size_step) for size in most]
    return Order(counts=tuple(counts.tolist()), batches=tuple(batches), leftovers=leftovers, seed=seed)
