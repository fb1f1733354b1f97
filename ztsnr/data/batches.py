"""What a step trains on: arithmetic on an index, and the next step is read while the one before is trained."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ztsnr.core.randomness import normal, uniform
from ztsnr.data.index import Index
from ztsnr.data.order import Order


class Batch(NamedTuple):
    """Rows of one shape and their conditions, each (B, ...). `weight` and `mask` among them are the loss's."""

    x0: Tensor
    """(B, C, H, W)"""
    cond: dict[str, Tensor]


class HeldOutBatch(NamedTuple):
    rows: range
    """Numbers of its samples among all that are held out."""
    x0: Tensor
    cond: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """`distribution`: the index has means and log-variances, from which training draws new latents in each step."""

    index: Index
    order: Order
    mean: Tensor
    """(C, 1, 1), as `std`: latent = x0 * std + mean."""
    std: Tensor
    distribution: bool
    caption_dropout: float
    seed: int

    def batch(self, step: int, rows: range, batch_size: int) -> Batch:
        """These rows of a training step's whole batch: x0 (len(rows), C, h, w), all of one bucket, and conditions."""
        index = self.index
        bucket, samples = self.order.batch(step, rows)
        samples = samples + index.starts[bucket, 0]

        views = (self._uniform("view", step, rows, batch_size) * index.arrays["crop"].shape[1]).astype(np.int64)
        texts = index.text_numbers(samples, self._uniform("text", step, rows, batch_size))
        is_dropped = self._uniform("dropped", step, rows, batch_size) < self.caption_dropout
        texts = np.where(is_dropped, 0, texts)

        x0, cond = self._read(bucket, samples, views, texts, (step, rows))
        if index.is_weighted:
            cond["weight"] = index.arrays["weight"][torch.from_numpy(samples)]
        if index.is_masked:
            cond["mask"] = index.masks(samples, views)
        return Batch(x0, cond)

    def held_out_batches(self, samples: int, batch_size: int) -> Iterator[HeldOutBatch]:
        """At most about `samples` held-out samples, of each bucket its share."""
        index, row = self.index, 0
        share = min(1.0, samples / index.counts[:, 1].sum())
        for bucket, (_, count) in enumerate(index.counts):
            stop = int(np.ceil(count * share))
            for start in range(0, stop, batch_size):
                numbers = index.starts[bucket, 1] + np.arange(start, min(start + batch_size, stop))
                zeros = np.zeros(len(numbers), dtype=np.int64)
                x0, cond = self._read(bucket, numbers, zeros, index.text_numbers(numbers, zeros))
                yield HeldOutBatch(range(row, row + len(numbers)), x0, cond)
                row += len(numbers)

    def _uniform(self, stream: str, step: int, rows: range, batch_size: int) -> np.ndarray:
        return uniform(self.seed, stream, step, rows, batch_size).numpy()

    def _read(
        self,
        bucket: int,
        samples: np.ndarray,
        views: np.ndarray,
        texts: np.ndarray,
        draw: tuple[int, range] | None = None,
    ) -> Batch:
        """`draw`, a step and its rows, draws each latent from its distribution; without it, it is the mean."""
        index = self.index
        latents = index.latents(samples, views)
        if self.distribution:
            latents, logvar = latents.chunk(2, 1)
            if draw is not None:
                latents = latents + (logvar / 2).exp() * normal(self.seed, "latent", *draw, latents.shape[1:])

        target = index.sizes[bucket].expand(len(samples), 2)
        numbers = torch.from_numpy(samples)
        ids = index.arrays["original"][numbers], index.arrays["crop"][numbers, torch.from_numpy(views)], target
        cond = {"time_ids": torch.cat([part.float() for part in ids], 1), **index.texts(texts)}
        return Batch((latents - self.mean) / self.std, cond)


class Prefetcher:
    """Steps' rows, made by `make(step, rows, batch_size)`; those of the following step meanwhile, in a thread.

    `size(step)` is that of the step's whole batch.
    """

    def __init__(self, make: Callable[[int, range, int], Batch], size: Callable[[int], int]) -> None:
        self.make = make
        self.size = size
        self.reader = ThreadPoolExecutor(1, "prefetch")
        self.prefetched: tuple[tuple[int, range, int], Future[Batch]] | None = None
        """What is asked for next, as it seems, and its batch."""

    def __call__(self, step: int, rows: range, batch_size: int) -> Batch:
        request = step, rows, batch_size
        if self.prefetched is not None and self.prefetched[0] == request:
            batch = self.prefetched[1].result()
        else:
            batch = self.make(*request)

        # of the next step, this process's share of the rows
        next_size = self.size(step + 1)
        next_rows = range(rows.start * next_size // batch_size, rows.stop * next_size // batch_size)
        following = step + 1, next_rows, next_size
        self.prefetched = following, self.reader.submit(self.make, *following)
        return batch
