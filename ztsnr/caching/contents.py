"""The contents of an index: location and repetitions of each encoded image, and the latents' mean and std."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ztsnr.caching.buckets import USED, Plan
from ztsnr.caching.catalogue import CatalogueEntry
from ztsnr.caching.latents import EncodedViews
from ztsnr.caching.shards import Keys
from ztsnr.caching.texts import EncodedTexts
from ztsnr.io.tensors import open_tensors


@dataclass(frozen=True)
class Locations:
    """Locations of keys: paths of shards below the cache, and each key's shard number and row."""

    paths: list[str]
    shard: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, keys: Iterable[bytes], known: Keys) -> "Locations":
        locations = [known[key] for key in keys]
        paths = sorted({path for path, _ in locations})
        numbers = {path: number for number, path in enumerate(paths)}
        shards = np.array([numbers[path] for path, _ in locations], dtype=np.int32)
        return cls(paths, shards, np.array([row for _, row in locations], dtype=np.int32))


@dataclass(frozen=True)
class Moments:
    """`count` numbers of each channel, their mean and their sum of squared distances from it, (C,) float64."""

    count: float
    mean: Tensor
    distance: Tensor

    @property
    def std(self) -> Tensor:
        return (self.distance / self.count).sqrt()

    @property
    def pooled(self) -> "Moments":
        """The moments over all channels, (1,)."""
        parts = zip(self.mean[:, None], self.distance[:, None], strict=True)
        return merged([Moments(self.count, mean, distance) for mean, distance in parts])


@dataclass(frozen=True)
class IndexContents:
    """Lists have an entry for each image. An excluded image has no views and no texts."""

    images: list[CatalogueEntry]
    plan: Plan
    held_out: np.ndarray
    latents: EncodedViews
    masks: EncodedViews | None
    """None if no image has a mask."""
    texts: EncodedTexts

    @cached_property
    def samples(self) -> np.ndarray:
        """(M,) int64: images sorted by bucket, then training before held out, then by content; with repeats."""
        used = np.flatnonzero(self.plan.fate == USED).tolist()
        names = [(image.digest, image.file.name) for image in self.images]
        used.sort(key=lambda i: (self.plan.bucket[i], self.held_out[i], names[i]))
        repeats = [1 if self.held_out[i] else self.images[i].file.folder.repeats for i in used]
        return np.repeat(np.array(used, dtype=np.int64), repeats)

    @cached_property
    def view_locations(self) -> Locations:
        """Locations of the samples' views, sample by sample."""
        return self._locations_of_views(self.latents)

    @cached_property
    def mask_locations(self) -> Locations:
        """Locations of the views' masks, in the same order; empty if no image has a mask."""
        return Locations.of([], {}) if self.masks is None else self._locations_of_views(self.masks)

    @cached_property
    def text_locations(self) -> Locations:
        """Locations of the distinct texts, the empty one first."""
        return Locations.of(self._text_numbers, self.texts.known)

    @cached_property
    def counts(self) -> np.ndarray:
        """(K, 2): training and held-out samples of each bucket."""
        counts = np.zeros((len(self.plan.sizes), 2), dtype=np.int64)
        np.add.at(counts, (self.plan.bucket[self.samples], self.held_out[self.samples].astype(int)), 1)
        return counts

    @property
    def times(self) -> np.ndarray:
        """(N,): how often an epoch trains each image."""
        trained = self.samples[~self.held_out[self.samples]]
        return np.bincount(trained, minlength=len(self.images))

    def arrays(self, weights: np.ndarray) -> dict[str, Tensor]:
        """The arrays of an Index. weights: of the images, (N,)."""
        samples = self.samples
        text_counts = np.array([len(self.texts.keys[i]) for i in samples], dtype=np.int32)
        text_numbers = [self._text_numbers[key] for i in samples for key in self.texts.keys[i]]
        crops = [request.view.crop for i in samples for request in self.latents.requests[i]]
        arrays = {
            "sizes": self.plan.sizes,
            "counts": self.counts,
            "original": np.array([self.images[i].size for i in samples], dtype=np.int32),
            "weight": weights[samples].astype(np.float32),
            "view_shard": self.view_locations.shard.reshape(len(samples), -1),
            "view_row": self.view_locations.row.reshape(len(samples), -1),
            "crop": np.array(crops, dtype=np.int32).reshape(len(samples), -1, 2),
            "text_start": text_counts.cumsum(dtype=np.int64) - text_counts,
            "text_count": text_counts,
            "text": np.array(text_numbers, dtype=np.int32),
            "text_shard": self.text_locations.shard,
            "text_row": self.text_locations.row,
        }
        if self.mask_locations.paths:
            arrays["mask_shard"] = self.mask_locations.shard.reshape(len(samples), -1)
            arrays["mask_row"] = self.mask_locations.row.reshape(len(samples), -1)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def moments(self, cache: Path) -> Moments:
        """The moments of the training latents, with repeats."""
        times: dict[str, dict[int, int]] = {}
        for i in self.samples[~self.held_out[self.samples]]:
            for request in self.latents.requests[i]:
                path, row = self.latents.known[request.key]
                of_shard = times.setdefault(path, {})
                of_shard[row] = of_shard.get(row, 0) + 1
        return merged([_moments_of_shard(cache / path, times[path]) for path in sorted(times)])

    @cached_property
    def _text_numbers(self) -> dict[bytes, int]:
        keys = dict.fromkeys([self.texts.empty])
        for i in self.samples:
            keys |= dict.fromkeys(self.texts.keys[i])
        return {key: number for number, key in enumerate(keys)}

    def _locations_of_views(self, views: EncodedViews) -> Locations:
        return Locations.of((request.key for i in self.samples for request in views.requests[i]), views.known)


def _moments_of_shard(path: Path, times: dict[int, int]) -> Moments:
    """The moments of a shard's rows, each as often as in `times`."""
    rows = torch.tensor(sorted(times))
    count = torch.tensor([times[row] for row in rows.tolist()], dtype=torch.float64)
    with open_tensors(path) as file:
        cells = int(np.prod(file.get_slice("latent").get_shape()[2:]))
        means, distances = (file.get_tensor(name)[rows] for name in ("mean", "distance"))
    return stacked(count * cells, means, distances * count[:, None])


def stacked(counts: Tensor, means: Tensor, distances: Tensor) -> Moments:
    """Of N groups with counts (N,), means and distances (N, C), by the formula of `merged` for all at once."""
    total = counts.sum()
    mean = (counts[:, None] * means).sum(0) / total
    between = (counts[:, None] * (means - mean).square()).sum(0)
    return Moments(float(total), mean, distances.sum(0) + between)


def merged(parts: list[Moments]) -> Moments:
    """Of all parts together, in their order (Chan, Golub and LeVeque, 1983)."""
    total = parts[0]
    for part in parts[1:]:
        count, gap = total.count + part.count, part.mean - total.mean
        mean = total.mean + gap * (part.count / count)
        distance = total.distance + part.distance + gap.square() * (total.count * part.count / count)
        total = Moments(count, mean, distance)
    return total
