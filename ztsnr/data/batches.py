"""What a step shows of an index: arithmetic, and the next step is read while the one before is trained."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ztsnr.core.randomness import normal, uniform
from ztsnr.data.index import Index
from ztsnr.data.order import Order

Batch = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """`distribution`: the index has means and log-variances, of which training draws anew in each step."""

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
        drawn = {name: uniform(self.seed, name, step, rows, batch_size).numpy() for name in ("view", "text", "dropped")}
        views = (drawn["view"] * index.arrays["crop"].shape[1]).astype(np.int64)
        texts = np.where(drawn["dropped"] < self.caption_dropout, 0, index.text_numbers(samples, drawn["text"]))
        x0, cond = self._read(bucket, samples, views, texts, (step, rows))
        if index.is_weighted:
            cond["weight"] = index.arrays["weight"][torch.from_numpy(samples)]
        if index.is_masked:
            cond["mask"] = index.masks(samples, views)
        return x0, cond

    def held_out_batches(self, samples: int, batch_size: int) -> Iterator[tuple[range, Tensor, dict[str, Tensor]]]:
        """At most about so many of the held-out samples, of each bucket its share: rows, x0, conditions."""
        index, row = self.index, 0
        share = min(1.0, samples / index.counts[:, 1].sum())
        for bucket, (_, count) in enumerate(index.counts):
            stop = int(np.ceil(count * share))
            for start in range(0, stop, batch_size):
                places = index.starts[bucket, 1] + np.arange(start, min(start + batch_size, stop))
                zeros = np.zeros(len(places), dtype=np.int64)
                x0, cond = self._read(bucket, places, zeros, index.text_numbers(places, zeros))
                yield range(row, row + len(places)), x0, cond
                row += len(places)

    def _read(self, bucket: int, samples: np.ndarray, views: np.ndarray, texts: np.ndarray, draw: tuple = ()) -> Batch:
        """`draw`, a step and its rows, where a latent is to be drawn from its distribution; else it is the mean."""
        index = self.index
        latents = index.latents(samples, views)
        if self.distribution:
            latents, logvar = latents.chunk(2, 1)
            if draw:
                latents = latents + (logvar / 2).exp() * normal(self.seed, "latent", *draw, latents.shape[1:])
        target = index.sizes[bucket].expand(len(samples), 2)
        place = torch.from_numpy(samples)
        ids = index.arrays["original"][place], index.arrays["crop"][place, torch.from_numpy(views)], target
        cond = {"time_ids": torch.cat([part.float() for part in ids], 1), **index.texts(texts)}
        return (latents - self.mean) / self.std, cond


class Ahead:
    """Steps' rows, made by `make(step, rows, batch_size)`; those of the step that follows in a thread, meanwhile.

    `size(step)` is that of the step's whole batch.
    """

    def __init__(self, make: Callable[[int, range, int], Batch], size: Callable[[int], int]):
        self.make, self.size, self.reader = make, size, ThreadPoolExecutor(1, "ahead")
        self.wanted: tuple[int, range, int] | None = None
        self.made: Future[Batch]

    def __call__(self, step: int, rows: range, batch_size: int) -> Batch:
        asked = step, rows, batch_size
        batch = self.made.result() if asked == self.wanted else self.make(*asked)
        size = self.size(step + 1)
        self.wanted = step + 1, range(rows.start * size // batch_size, rows.stop * size // batch_size), size
        self.made = self.reader.submit(self.make, *self.wanted)
        return batch
