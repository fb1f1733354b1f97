"""Which bucket a step trains, and which of its samples: index arithmetic, whatever the number of pictures."""

from dataclasses import dataclass

import numpy as np

from ztsnr.core import checks
from ztsnr.core.errors import ConfigError
from ztsnr.data.permutation import permuted

LEFTOVERS = ("merge", "repeat", "partial", "drop")
"""What becomes of a bucket's samples that fill no whole batch: they come first in its next epoch (and buckets smaller
than a batch were merged into others); their batch is filled up with the bucket's first; it stays smaller; they are
left out."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """An endless sequence of batches, each of one bucket. `counts` and `batches`: samples and batch size of each."""

    counts: tuple[int, ...]
    batches: tuple[int, ...]
    leftovers: str
    seed: int

    def __post_init__(self):
        checks.one_of("data.leftovers", self.leftovers, LEFTOVERS)
        if self.leftovers == "drop" and not self.steps(0).sum():
            raise ConfigError(
                f"No bucket fills a batch: they hold {', '.join(map(str, self.counts))} samples. "
                f"Lower trainer.batch_size, or use data.leftovers=merge."
            )

    def steps(self, epoch: int) -> np.ndarray:
        """Batches of each bucket in this epoch, (K,) int64."""
        return self._before(epoch + 1) - self._before(epoch)

    def mean_steps(self) -> np.ndarray:
        """Batches of each bucket in an epoch, (K,) float64; with carrying over, no whole numbers."""
        counts, sizes = np.array(self.counts), np.array(self.batches)
        return counts / sizes if self.leftovers == "merge" else self.steps(0).astype(np.float64)

    def shown(self) -> np.ndarray:
        """How often an epoch shows a sample of each bucket, (K,) float64."""
        if self.leftovers == "partial":
            return np.ones(len(self.counts))
        return self.mean_steps() * self.batches / np.maximum(self.counts, 1)

    def sizes(self) -> set[int]:
        """Of all batches."""
        least = self.batches if self.leftovers == "drop" else [1] * len(self.batches)
        used = [(n, size) for n, size, few in zip(self.counts, self.batches, least, strict=True) if n >= few]
        if self.leftovers != "partial":
            return {size for _, size in used}
        return {min(size, n - start) for n, size in used for start in (0, n // size * size) if start < n}

    def size(self, step: int) -> int:
        """Samples in the step's batch."""
        _, bucket, number = self._slot(step)
        return self._size(bucket, number)

    def batch(self, step: int, rows: range) -> tuple[int, np.ndarray]:
        """The step's bucket, and which of its samples, [0, count), stand in these rows: (len(rows),) int64."""
        epoch, bucket, number = self._slot(step)
        if self.leftovers == "merge":  # the bucket's own epochs go on across those of the whole
            epoch, number = 0, number + int(self._before(epoch)[bucket])
        places = number * self.batches[bucket] + np.arange(rows.start, rows.stop)
        turns, places = np.divmod(places, self.counts[bucket])
        turns = turns if self.leftovers == "merge" else np.full_like(turns, epoch)
        samples = np.empty_like(places)
        for turn in np.unique(turns):
            these = turns == turn
            samples[these] = permuted(self.seed, f"bucket {bucket}", int(turn), places[these], self.counts[bucket])
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
        if self.leftovers == "merge":
            mean = sum(count / size for count, size in zip(self.counts, self.batches, strict=True))
        else:
            mean = self.steps(0).sum()
        epoch = int(step / mean)  # or, where batches are carried over, a little later
        while self._before(epoch).sum() > step:
            epoch -= 1
        while (end := self._before(epoch + 1).sum()) <= step:
            epoch += 1
        ends = self.steps(epoch).cumsum()
        slot = int(permuted(self.seed, "buckets", epoch, np.array([step - end + ends[-1]]), int(ends[-1]))[0])
        bucket = int(np.searchsorted(ends, slot, side="right"))
        return epoch, bucket, slot - int(ends[bucket - 1] if bucket else 0)
