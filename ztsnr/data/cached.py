"""Training data from a cache of latents and text embeddings."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch

from ztsnr.core import checks
from ztsnr.core.checks import Bounds, Part
from ztsnr.core.errors import CacheError, ConfigError
from ztsnr.data.batches import Batch, BatchReader, HeldOutBatch, Prefetcher
from ztsnr.data.index import Index, open_index
from ztsnr.data.order import Leftovers, Order, order_of
from ztsnr.data.scale import check_statistics, latent_scale


@dataclass(frozen=True, kw_only=True)
class CachedImages(Part):
    """Captioned images of any size, as x0 and the conditions of SDXL, from an index in a cache.

    `latent_normalisation` converts latents to x0 by each channel's mean and standard deviation ("channel"), by one
    standard deviation ("scalar"), or by the VAE's own factor as in SDXL's training ("none"). `statistics`, a mean and a
    std of each channel, replace the measured ones. `batch_size_step` null uses `batch_size` for each bucket; a number
    uses larger batches, multiples of it, for buckets of fewer pixels, so that all batches need similar memory.
    """

    cache: str
    local_cache: str
    """Folder for copies of a remote cache's shards."""
    pretrained: str
    leftovers: Leftovers
    batch_size: checks.Count
    batch_size_step: checks.Count | None
    caption_dropout: Annotated[float, Bounds(at_least=0, below=1)]
    latent_normalisation: Literal["channel", "scalar", "none"]
    statistics: dict[str, Any] | None
    seed: checks.NonNegativeInt

    _is_prepared: ClassVar[bool] = False
    """Set on an instance by `prepare`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_statistics(self.latent_normalisation, self.statistics)

    @property
    def index_name(self) -> str:
        """Path of the index, relative to the cache."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Opens the index. Raises CacheError if there is none."""
        object.__setattr__(self, "_is_prepared", True)
        _ = self.train

    @cached_property
    def train(self) -> Index:
        """Its length is the number of samples in an epoch. Raises CacheError before `prepare`."""
        if not self._is_prepared:
            raise CacheError(f"data.cache={self.cache} is not prepared: call prepare() before reading the data")
        return open_index(self.cache, self.local_cache, self.index_name)

    @property
    def facts(self) -> dict:
        """The latents' scale for a checkpoint: VAE's latent = x0 * std + mean, by channel."""
        return {"latents": latent_scale(self.latent_normalisation, self.statistics, self.train.facts)}

    def with_statistics_from(self, state_facts: Mapping[str, Any]) -> Self:
        """Takes over the latent statistics of an earlier run.

        Returns itself if that run used a different normalisation or VAE, or if the config sets the statistics. Call
        `prepare` on the result.
        """
        before = state_facts["config"]["data"]
        is_same = all(before.get(name) == getattr(self, name) for name in ("latent_normalisation", "pretrained"))
        if not is_same or self.latent_normalisation == "none" or self.statistics is not None:
            return self
        return replace(self, statistics=state_facts["data"]["latents"])

    def batch_sizes(self, batch_size: int) -> set[int]:
        """Sizes of all full batches. Raises ConfigError unless `batch_size` is the data's own."""
        if batch_size != self.batch_size:
            raise ConfigError(f"data.batch_size must be trainer.batch_size={batch_size}, got {self.batch_size}")
        return self._order.sizes()

    def size(self, step: int, batch_size: int) -> int:
        return self._order.size(step)

    def batch(self, step: int, rows: range, batch_size: int) -> Batch:
        return self._prefetcher(step, rows, batch_size)

    def held_out_batches(self, samples: int, batch_size: int) -> Iterator[HeldOutBatch]:
        return self._reader.held_out_batches(samples, batch_size)

    def order(self, sizes: np.ndarray, counts: np.ndarray) -> Order:
        """sizes (K, 2), counts (K,): samples to train on."""
        return order_of(
            sizes,
            counts,
            batch_size=self.batch_size,
            batch_size_step=self.batch_size_step,
            leftovers=self.leftovers,
            seed=self.seed,
        )

    def write_report(self, folder: Path) -> list[Path]:
        """Writes plan.txt, and latents.json with the scale that checkpoints store and the measured statistics."""
        plan = folder / "plan.txt"
        facts = folder / "latents.json"
        plan.write_text(self.train.facts["report"], encoding="utf-8")
        measured = {name: self.train.facts[name] for name in ("mean", "std")}
        facts.write_text(json.dumps(self.facts | {"measured": measured}, indent=1), encoding="utf-8")
        return [plan, facts]

    @cached_property
    def _order(self) -> Order:
        return self.order(self.train.sizes.numpy(), self.train.counts[:, 0])

    @cached_property
    def _reader(self) -> BatchReader:
        scale = self.facts["latents"]
        return BatchReader(
            index=self.train,
            order=self._order,
            mean=torch.tensor(scale["mean"])[:, None, None],
            std=torch.tensor(scale["std"])[:, None, None],
            distribution=self.train.facts["kind"] == "distribution",
            caption_dropout=self.caption_dropout,
            seed=self.seed,
        )

    @cached_property
    def _prefetcher(self) -> Prefetcher:
        return Prefetcher(self._reader.batch, self._order.size)
