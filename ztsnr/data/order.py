"""Selects the bucket and the samples of a step by arithmetic, without a list of all images."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ztsnr.core.errors import ConfigError
from ztsnr.data.permutation import permuted

Leftovers = Literal["merge", "repeat", "partial", "drop"]
"""What happens to a bucket's samples that do not fill a batch.

merge: the bucket's next epoch begins with them, and buckets smaller than a batch are merged into others.
repeat: the bucket's first samples fill their batch. partial: their batch is smaller. drop: they are not trained.
"""


@dataclass(frozen=True, kw_only=True)
class Order:
    """An endless sequence of batches, each from one bucket. `counts`, `batches`: samples and batch size by bucket."""

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
        if self.leftovers == "merge":
            return np.array(self.counts) / np.array(self.batches)
        return self.steps(0).astype(np.float64)

    def shown(self) -> np.ndarray:
        """How often an epoch shows a sample of each bucket, on average, (K,) float64."""
        if self.leftovers == "partial":
            return np.ones(len(self.counts))
        return self.mean_steps() * self.batches / np.maximum(self.counts, 1)

    def sizes(self) -> set[int]:
        """Sizes that occur among all batches."""
        sizes = set()
        for count, size in zip(self.counts, self.batches, strict=True):
            full, rest = divmod(count, size)
            if full or (rest and self.leftovers in ("merge", "repeat")):
                sizes.add(size)
            if rest and self.leftovers == "partial":
                sizes.add(rest)
        return sizes

    def size(self, step: int) -> int:
        """Samples in the step's batch."""
        _, bucket, number = self._slot(step)
        return self._size(bucket, number)

    def batch(self, step: int, rows: range) -> tuple[int, np.ndarray]:
        """The step's bucket, and the samples of these rows, numbers in [0, count): (len(rows),) int64."""
        epoch, bucket, number = self._slot(step)
        if self.leftovers == "merge":
            # a bucket's own epochs do not end with those of the data set
            number += int(self._before(epoch)[bucket])
        positions = number * self.batches[bucket] + np.arange(rows.start, rows.stop)
        epochs, positions = np.divmod(positions, self.counts[bucket])
        if self.leftovers != "merge":
            epochs = np.full_like(epochs, epoch)

        # each of the bucket's epochs has its own shuffle
        samples = np.empty_like(positions)
        for own_epoch in np.unique(epochs):
            is_own = epochs == own_epoch
            samples[is_own] = permuted(
                self.seed, f"bucket {bucket}", int(own_epoch), positions[is_own], self.counts[bucket]
            )
        return bucket, samples

    def _size(self, bucket: int, number: int) -> int:
        count, size = self.counts[bucket], self.batches[bucket]
        return min(size, count - number * size) if self.leftovers == "partial" else size

    def _before(self, epoch: int) -> np.ndarray:
        """Batches of each bucket in all epochs before this one, (K,) int64."""
        counts = np.array(self.counts, dtype=np.int64)
        sizes = np.array(self.batches, dtype=np.int64)
        if self.leftovers == "merge":
            return epoch * counts // sizes
        if self.leftovers == "drop":
            return epoch * (counts // sizes)
        return epoch * -(-counts // sizes)

    def _slot(self, step: int) -> tuple[int, int, int]:
        """The step's epoch, its bucket, and the number of its batch among the bucket's in that epoch."""
        # estimate the epoch from the mean number of steps, then correct it
        if self.leftovers == "merge":
            mean = sum(count / size for count, size in zip(self.counts, self.batches, strict=True))
        else:
            mean = self.steps(0).sum()
        epoch = int(step / mean)
        while self._before(epoch).sum() > step:
            epoch -= 1
        while (end := self._before(epoch + 1).sum()) <= step:
            epoch += 1

        # look up the step in the epoch's shuffled batches
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
    """The order for buckets of sizes (K, 2) with counts (K,) training samples.

    With a `batch_size_step`, a bucket's batch size is the largest multiple of it whose batch has no more pixels than
    the largest bucket's, and at least `batch_size`.
    """
    batches = [batch_size] * len(sizes)
    if batch_size_step is not None:
        areas = sizes.astype(np.int64).prod(1)
        limits = (batch_size * areas.max(initial=1) // areas).tolist()
        batches = [max(batch_size, limit // batch_size_step * batch_size_step) for limit in limits]
    return Order(counts=tuple(counts.tolist()), batches=tuple(batches), leftovers=leftovers, seed=seed)
