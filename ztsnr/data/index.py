"""What a training reads of a cache: one file of arrays, read by memory map, whatever the number of images."""

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
    """Samples are sorted by bucket; in each the trained ones come first, as often as repeated, then those held out.

    Arrays, M samples, V views of each: `original` (M, 2), `weight` (M,), `view_shard`, `view_row` (M, V), `crop`
    (M, V, 2), `text_start`, `text_count` (M,) into `text`, which numbers the texts, whose `text_shard` and `text_row`
    say where they are. Text 0 is the empty one. `mask_shard`, `mask_row` (M, V) where some image has a mask.
    """

    cache: str
    """A folder, or what fsspec reads, shard by shard, of which copies are kept in the folder `local_cache`."""
    local_cache: str
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
        """(K, 2): number of the first sample to train on, and of the first one held out."""
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
        shards, rows = (self.arrays[name].numpy()[samples, views] for name in ("view_shard", "view_row"))
        return self._read("latent", self.facts["latents"], shards, rows)

    def masks(self, samples: np.ndarray, views: np.ndarray) -> Tensor:
        """(B, 1, h, w) float32 in [0, 1]."""
        shards, rows = (self.arrays[name].numpy()[samples, views] for name in ("mask_shard", "mask_row"))
        return self._read("mask", self.facts["masks"], shards, rows).float() / 255

    def texts(self, numbers: np.ndarray) -> dict[str, Tensor]:
        """These texts' embeddings, float32, or their tokens, int32."""
        shards, rows = (self.arrays[name].numpy()[numbers] for name in ("text_shard", "text_row"))
        return {name: self._read(name, self.facts["texts"], shards, rows) for name in self._text_tensors}

    def text_numbers(self, samples: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Of each sample the text that a draw in [0, 1) chooses."""
        starts, counts = (self.arrays[name].numpy()[samples] for name in ("text_start", "text_count"))
        return self.arrays["text"].numpy()[starts + (draws * counts).astype(np.int64)]

    def _read(self, name: str, paths: list[str], shards: np.ndarray, rows: np.ndarray) -> Tensor:
        """Floating-point rows become float32 one by one: within autocast on a CPU, float16 cannot be stacked."""
        values = []
        for shard, row in zip(shards, rows, strict=True):
            value = _open_shard(self.cache, self.local_cache, paths[shard]).get_slice(name)[int(row)]
            values.append(value.float() if value.is_floating_point() else value)
        return torch.stack(values)

    @cached_property
    def _text_tensors(self) -> list[str]:
        """Names of what a shard of texts holds for each: text and pooled, or tokens."""
        first = _open_shard(self.cache, self.local_cache, self.facts["texts"][0])
        return sorted(name for name in first.keys() if name != "key")  # noqa: SIM118 (it is not iterable)


@lru_cache(OPEN_SHARDS)
def _open_shard(cache: str, local_cache: str, path: str) -> safe_open:
    try:
        return open_tensors(local_copy(f"{cache}/{path}", local_cache))
    except CheckpointError as error:
        raise CacheError(f"{error}. data.refresh=true makes it again.") from error


def open_index(cache: str, local_cache: str, name: str) -> Index:
    """Maps it into memory; what is not asked for is not read. Raises CacheError."""
    path = local_copy(f"{cache}/{name}", local_cache)
    if not path.is_file():
        raise CacheError(f"data.cache={cache} has no index of these images and settings. data.refresh=true makes it.")
    try:
        with open_tensors(path) as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not iterable)
            return Index(cache, local_cache, arrays, json.loads(file.metadata()["ztsnr.index"]))
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise CacheError(f"{path} is not a complete index of a cache ({error}). data.refresh=true makes it.") from error
