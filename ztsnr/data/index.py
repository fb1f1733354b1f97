"""A cache's index: one memory-mapped file of arrays that lists the samples of a training."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ztsnr.core.errors import CacheError, CheckpointError
from ztsnr.io.remote import local_copy
from ztsnr.io.tensors import open_tensors

OPEN_SHARDS = 128


@dataclass(frozen=True)
class Index:
    """M samples with V views each, sorted by bucket. In a bucket, training samples precede held-out ones.

    A repeated training sample occurs more than once. Arrays:
    `original` (M, 2): height and width of the image file. `crop` (M, V, 2): top and left of each view.
    `weight` (M,): factor of the loss.
    `view_shard`, `view_row` (M, V): location of the latents. `mask_shard`, `mask_row` (M, V): of the masks, if any.
    `text_start`, `text_count` (M,): slice of `text`, which holds numbers of texts. Text 0 is the empty one.
    `text_shard`, `text_row`: location of each text.
    """

    cache: str
    """A folder, or a URL that fsspec reads shard by shard."""
    local_cache: str
    """Folder for copies of a remote cache's shards."""
    arrays: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    @property
    def sizes(self) -> Tensor:
        """(K, 2): the buckets' height and width in pixels."""
        return self.arrays["sizes"]

    @cached_property
    def counts(self) -> np.ndarray:
        """(K, 2): samples to train on and held out."""
        return self.arrays["counts"].numpy()

    @cached_property
    def starts(self) -> np.ndarray:
        """(K, 2): number of the first training sample, and of the first held-out one."""
        return (self.counts.ravel().cumsum() - self.counts.ravel()).reshape(-1, 2)

    @cached_property
    def is_weighted(self) -> bool:
        return bool((self.arrays["weight"] != 1).any())

    @property
    def is_masked(self) -> bool:
        return "mask_shard" in self.arrays

    def __len__(self) -> int:
        """Samples to train on."""
        return int(self.counts[:, 0].sum())

    def latents(self, samples: np.ndarray, views: np.ndarray) -> Tensor:
        """(B, C, h, w) float32, as the VAE encoded them."""
        shards = self.arrays["view_shard"].numpy()[samples, views]
        rows = self.arrays["view_row"].numpy()[samples, views]
        return self._read("latent", self.facts["latents"], shards, rows)

    def masks(self, samples: np.ndarray, views: np.ndarray) -> Tensor:
        """(B, 1, h, w) float32 in [0, 1]."""
        shards = self.arrays["mask_shard"].numpy()[samples, views]
        rows = self.arrays["mask_row"].numpy()[samples, views]
        return self._read("mask", self.facts["masks"], shards, rows).float() / 255

    def texts(self, numbers: np.ndarray) -> dict[str, Tensor]:
        """The texts' embeddings, float32, or their tokens, int32."""
        shards = self.arrays["text_shard"].numpy()[numbers]
        rows = self.arrays["text_row"].numpy()[numbers]
        return {name: self._read(name, self.facts["texts"], shards, rows) for name in self._text_tensors}

    def text_numbers(self, samples: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """The number of one text for each sample, chosen by a draw in [0, 1)."""
        starts = self.arrays["text_start"].numpy()[samples]
        counts = self.arrays["text_count"].numpy()[samples]
        return self.arrays["text"].numpy()[starts + (draws * counts).astype(np.int64)]

    def _read(self, name: str, paths: list[str], shards: np.ndarray, rows: np.ndarray) -> Tensor:
        """Reads one row at a time. Converts before stacking, since autocast on a CPU cannot stack float16."""
        values = []
        for shard, row in zip(shards, rows, strict=True):
            value = _open_shard(self.cache, self.local_cache, paths[shard]).get_slice(name)[int(row)]
            values.append(value.float() if value.is_floating_point() else value)
        return torch.stack(values)

    @cached_property
    def _text_tensors(self) -> list[str]:
        """Names of the tensors in a shard of texts: text and pooled, or tokens."""
        first = _open_shard(self.cache, self.local_cache, self.facts["texts"][0])
        return sorted(name for name in first.keys() if name != "key")  # noqa: SIM118 (it is not iterable)


@lru_cache(OPEN_SHARDS)
def _open_shard(cache: str, local_cache: str, path: str) -> safe_open:
    try:
        return open_tensors(local_copy(f"{cache}/{path}", local_cache))
    except CheckpointError as error:
        raise CacheError(f"{error}. data.refresh=true rebuilds it.") from error


def open_index(cache: str, local_cache: str, name: str) -> Index:
    """Opens the index by memory map. Raises CacheError."""
    path = local_copy(f"{cache}/{name}", local_cache)
    if not path.is_file():
        raise CacheError(f"data.cache={cache} has no index of these images and settings. data.refresh=true makes it.")
    try:
        with open_tensors(path) as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not iterable)
            return Index(cache, local_cache, arrays, json.loads(file.metadata()["ztsnr.index"]))
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise CacheError(f"{path} is not a complete index of a cache ({error}). data.refresh=true makes it.") from error
