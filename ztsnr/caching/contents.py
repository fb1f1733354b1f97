"""What an index says of pictures that are all encoded."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ztsnr.caching.buckets import USED, Plan
from ztsnr.caching.catalogue import Picture
from ztsnr.caching.encode import Shown
from ztsnr.caching.shards import Keys
from ztsnr.caching.statistics import Moments, merged, stacked
from ztsnr.io.tensors import open_tensors


@dataclass(frozen=True)
class Places:
    """Where keys are: paths of shards below the cache, and for each key the shard's number and the row."""

    paths: list[str]
    shard: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, keys: Iterable[bytes], known: Keys) -> "Places":
        found = [known[key] for key in keys]
        paths = sorted({path for path, _ in found})
        number = {path: i for i, path in enumerate(paths)}
        shards = np.array([number[path] for path, _ in found], dtype=np.int32)
        return cls(paths, shards, np.array([row for _, row in found], dtype=np.int32))


@dataclass(frozen=True)
class Contents:
    """Lists are parallel to the pictures; what is left out has no views and no texts."""

    pictures: list[Picture]
    plan: Plan
    held_out: np.ndarray
    views: list[list[Shown]]
    masks: list[list[Shown]]
    texts: list[list[bytes]]
    """Their keys."""
    empty: bytes
    """The empty text's key."""
    known: Keys

    @cached_property
    def samples(self) -> np.ndarray:
        """(M,) int64: pictures by bucket, the trained ones first and as often as repeated; by content within."""
        used = np.flatnonzero(self.plan.fate == USED).tolist()
        name = [(picture.digest, picture.found.name) for picture in self.pictures]
        used.sort(key=lambda i: (self.plan.bucket[i], self.held_out[i], name[i]))
        return np.repeat(np.array(used, dtype=np.int64), [self._repeats(i) for i in used])

    @cached_property
    def view_places(self) -> Places:
        """Of the samples' views, one sample after the other."""
        return Places.of((shown.key for i in self.samples for shown in self.views[i]), self.known)

    @cached_property
    def mask_places(self) -> Places:
        """Of the views' masks, in the same order; there are none where every picture is trained whole."""
        return Places.of((shown.key for i in self.samples for shown in self.masks[i]), self.known)

    @cached_property
    def text_places(self) -> Places:
        """Of each text once, the empty one first."""
        return Places.of(self._text_numbers, self.known)

    @property
    def times(self) -> np.ndarray:
        """(N,): how often an epoch trains each picture."""
        trained = self.samples[~self.held_out[self.samples]]
        return np.bincount(trained, minlength=len(self.pictures))

    def arrays(self, weights: np.ndarray) -> dict[str, Tensor]:
        """See Index. weights (N,) are the pictures' own."""
        samples, bucket = self.samples, self.plan.bucket[self.samples]
        counts = np.zeros((len(self.plan.sizes), 2), dtype=np.int64)
        np.add.at(counts, (bucket, self.held_out[samples].astype(int)), 1)
        text_counts = np.array([len(self.texts[i]) for i in samples], dtype=np.int32)
        crops = [shown.view.crop for i in samples for shown in self.views[i]]
        arrays = {
            "sizes": self.plan.sizes,
            "counts": counts,
            "original": np.array([self.pictures[i].size for i in samples], dtype=np.int32),
            "weight": weights[samples].astype(np.float32),
            "view_shard": self.view_places.shard.reshape(len(samples), -1),
            "view_row": self.view_places.row.reshape(len(samples), -1),
            "crop": np.array(crops, dtype=np.int32).reshape(len(samples), -1, 2),
            "text_start": text_counts.cumsum(dtype=np.int64) - text_counts,
            "text_count": text_counts,
            "text": np.array([self._text_numbers[key] for i in samples for key in self.texts[i]], dtype=np.int32),
            "text_shard": self.text_places.shard,
            "text_row": self.text_places.row,
        }
        if self.mask_places.paths:
            arrays["mask_shard"] = self.mask_places.shard.reshape(len(samples), -1)
            arrays["mask_row"] = self.mask_places.row.reshape(len(samples), -1)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def moments(self, cache: Path) -> Moments:
        """Of the latents that are trained on, as often as they are."""
        times: dict[str, dict[int, int]] = {}
        for i in self.samples[~self.held_out[self.samples]]:
            for shown in self.views[i]:
                path, row = self.known[shown.key]
                times.setdefault(path, {}).setdefault(row, 0)
                times[path][row] += 1
        return merged([_moments(cache / path, times[path]) for path in sorted(times)])

    @cached_property
    def _text_numbers(self) -> dict[bytes, int]:
        keys = dict.fromkeys([self.empty, *(key for i in self.samples for key in self.texts[i])])
        return {key: number for number, key in enumerate(keys)}

    def _repeats(self, picture: int) -> int:
        return 1 if self.held_out[picture] else self.pictures[picture].found.folder.repeats


def _moments(path: Path, times: dict[int, int]) -> Moments:
    """Of a shard's rows, each taken so many times."""
    rows = torch.tensor(sorted(times))
    count = torch.tensor([times[row] for row in rows.tolist()], dtype=torch.float64)
    with open_tensors(path) as file:
        cells = int(np.prod(file.get_slice("latent").get_shape()[2:]))
        means, distances = (file.get_tensor(name)[rows] for name in ("mean", "distance"))
    return stacked(count * cells, means, distances * count[:, None])
