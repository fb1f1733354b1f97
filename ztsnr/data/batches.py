"""The batch of a step: index arithmetic selects its samples, and a thread reads the next batch during the step."""

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
    """Rows of one shape and their conditions, each (B, ...). The loss uses `weight` and `mask`, if present."""

    x0: Tensor
    """(B, C, H, W)"""
    cond: dict[str, Tensor]


class HeldOutBatch(NamedTuple):
    rows: range
    """Positions of the samples in the held-out set."""
    x0: Tensor
    cond: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class BatchReader:
    """Reads batches of an index's samples, in an order.

    distribution: the index has means and log-variances, and training draws new latents from them in each step.
    """

    index: Index
    order: Order
    mean: Tensor
    """(C, 1, 1), as `std`: latent = x0 * std + mean."""
    std: Tensor
    distribution: bool
    caption_dropout: float
    seed: int

    def batch(self, step: int, rows: range, batch_size: int) -> Batch:
        """Some rows of a step's full batch, all of one bucket: x0 (len(rows), C, h, w) and conditions."""
        index = self.index
        bucket, samples = self.order.batch(step, rows)
        samples = samples + index.starts[bucket, 0]

        # a view and a caption of each, or the empty text
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
        """Yields about `samples` held-out samples at most, in proportion from each bucket."""
        index = self.index
        row = 0
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
        """Reads samples of one bucket. draw: step and rows for drawing from a distribution; None takes its mean."""
        index = self.index
        latents = index.latents(samples, views)
        if self.distribution:
            latents, logvar = latents.chunk(2, 1)
            if draw is not None:
                latents = latents + (logvar / 2).exp() * normal(self.seed, "latent", *draw, latents.shape[1:])

        # SDXL's time ids: original size, crop, target size
        numbers = torch.from_numpy(samples)
        original = index.arrays["original"][numbers]
        crop = index.arrays["crop"][numbers, torch.from_numpy(views)]
        target = index.sizes[bucket].expand(len(samples), 2)
        time_ids = torch.cat([original.float(), crop.float(), target.float()], 1)
        cond = {"time_ids": time_ids, **index.texts(texts)}
        return Batch((latents - self.mean) / self.std, cond)


class Prefetcher:
    """Calls `make(step, rows, batch_size)`, and prefetches the same process's rows of the next step in a thread.

    `size(step)` is the size of the step's full batch.
    """

    def __init__(self, make: Callable[[int, range, int], Batch], size: Callable[[int], int]) -> None:
        self.make = make
        self.size = size
        self.reader = ThreadPoolExecutor(1, "prefetch")
        self.prefetched: tuple[tuple[int, range, int], Future[Batch]] | None = None
        """The expected next request and its batch."""

    def __call__(self, step: int, rows: range, batch_size: int) -> Batch:
        request = step, rows, batch_size
        if self.prefetched is not None and self.prefetched[0] == request:
            batch = self.prefetched[1].result()
        else:
            batch = self.make(*request)

        # prefetch this process's share of the next step
        next_size = self.size(step + 1)
        next_rows = range(rows.start * next_size // batch_size, rows.stop * next_size // batch_size)
        following = step + 1, next_rows, next_size
        self.prefetched = following, self.reader.submit(self.make, *following)
        return batch
