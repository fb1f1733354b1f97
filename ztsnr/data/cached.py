"""Pictures of any sizes, cached as latents and texts: their settings, and what trains on them."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ztsnr.caching.buckets import AutoSizes, Sizes
from ztsnr.caching.captions import Captions
from ztsnr.caching.decode import MASKS
from ztsnr.caching.encode import Encoding
from ztsnr.caching.keys import hashed
from ztsnr.caching.listing import Found, folders_from
from ztsnr.caching.rarity import Rarity
from ztsnr.core import checks
from ztsnr.core.errors import CacheError, ConfigError
from ztsnr.data.batches import Ahead, Batch, Samples
from ztsnr.data.index import Index, open_index
from ztsnr.data.order import LEFTOVERS, Order
from ztsnr.data.scale import NORMALISE, check_scale, latent_scale
from ztsnr.io.remote import is_elsewhere
from ztsnr.models.trainable import Trained


@dataclass(frozen=True, kw_only=True)
class CachedImages:
    """Captioned images of any sizes, as x0 and the conditions of SDXL. `root` says where they are.

    `refresh` looks at the images first and encodes what is missing; without it the cache is trained as it was last made
    with these settings. `latent_normalisation` makes x0 of latents: by each channel's mean and standard deviation, by
    one standard deviation, or by the VAE's own factor only, as SDXL was trained. `statistics` are a mean and a std of
    each channel, in place of measured ones. `batch_size_step` null gives each bucket `batch_size`; a number gives
    buckets of fewer pixels larger batches, in multiples of it, so that memory is level. `train_text` is
    model.train_text: text encoders that are trained take a caption's tokens, not its embeddings.
    """

    root: str | list[str]
    folders: list[dict]
    cache: str
    local_cache: str
    pretrained: str
    refresh: bool
    on_bad: str
    workers: int
    background: tuple[int, int, int]
    masks: str
    max_aspect: float
    max_upscale: float
    leftovers: str
    batch_size: int
    batch_size_step: int | None
    crops: int
    flip: bool
    sizes: Sizes | AutoSizes
    captions: Captions
    rarity: Rarity
    caption_dropout: float
    text_windows: int
    train_text: Trained | None
    encoding: Encoding
    latent_normalisation: str
    statistics: dict | None
    held_out: float
    seed: int
    _index: ClassVar[Index | None] = None
    """Set by `prepare`."""

    def __post_init__(self):
        choices = {
            "on_bad": ("skip", "stop"),
            "leftovers": LEFTOVERS,
            "latent_normalisation": NORMALISE,
            "masks": MASKS,
        }
        for name, options in choices.items():
            checks.one_of(f"data.{name}", getattr(self, name), options)
        for name, least in (("workers", 0), ("batch_size", 1), ("crops", 1), ("text_windows", 1), ("seed", 0)):
            checks.integer(f"data.{name}", getattr(self, name), at_least=least)
        for name in ("refresh", "flip"):
            checks.flag(f"data.{name}", getattr(self, name))
        if self.batch_size_step is not None:
            checks.integer("data.batch_size_step", self.batch_size_step, at_least=1)
        checks.numbers("data.background", self.background, at_least=0, at_most=255)
        checks.finite("data.max_aspect", self.max_aspect, at_least=1)
        checks.finite("data.max_upscale", self.max_upscale, above=0)
        checks.finite("data.caption_dropout", self.caption_dropout, at_least=0, below=1)
        checks.finite("data.held_out", self.held_out, above=0, below=1)
        checks.instance("data.captions", self.captions, Captions)
        checks.instance("data.encoding", self.encoding, Encoding)
        checks.instance("data.rarity", self.rarity, Rarity)
        if self.train_text is not None:
            checks.instance("data.train_text", self.train_text, Trained)
        object.__setattr__(self, "background", tuple(self.background))
        folders_from(self.folders)
        check_scale(self.latent_normalisation, self.statistics)
        if not self.roots:
            raise ConfigError(f"data.root must be a path or a list of paths, got {self.root!r}")
        if self.refresh and is_elsewhere(self.cache):
            raise ConfigError(f"data.cache={self.cache} can be read alone: data.refresh=false. Fill a folder.")

    @property
    def roots(self) -> list[str]:
        given = self.root.split(",") if isinstance(self.root, str) else self.root
        return [root.strip() for root in given if root.strip()]

    def listing(self) -> Iterator[Found]:
        """The pictures."""
        raise NotImplementedError

    def identity(self) -> tuple:
        """What says which pictures these are."""
        raise NotImplementedError

    @property
    def trains_text(self) -> bool:
        return self.train_text is not None

    @property
    def cache_folder(self) -> Path:
        return Path(self.cache)

    @property
    def index_name(self) -> str:
        """Below the cache: of the index that these settings make."""
        settings = (
            self.pretrained,
            self.background,
            self.max_aspect,
            self.max_upscale,
            self.crops,
            self.flip,
            self.sizes.key_text,
            self.captions.key_text,
            self.text_windows,
            self.encoding.key_text,
            self.held_out,
            self.rarity.key_text,
            self.masks,
        )
        if self.trains_text:
            settings = (*settings, "tokens")
        merging = self.batch_size if self.leftovers == "merge" else None
        return f"index/{hashed(self.identity(), merging, *settings).hex()}.safetensors"

    @property
    def index_path(self) -> Path:
        return self.cache_folder / self.index_name

    def prepare(self) -> None:
        """Encodes what is missing where `refresh` is true, then opens the index. Raises CacheError, ConfigError."""
        if self.refresh:
            from ztsnr.caching.prepare import Preparation
            from ztsnr.caching.progress import make_progress

            Preparation(self, make_progress(int(os.environ.get("RANK", 0)) > 0)).run(self.index_path)
        object.__setattr__(self, "_index", open_index(self.cache, self.local_cache, self.index_name))

    @property
    def train(self) -> Index:
        """Its length is the number of samples in an epoch. Raises CacheError before `prepare`."""
        if self._index is None:
            raise CacheError(f"data.cache={self.cache} is not open yet: call prepare() before train")
        return self._index

    @property
    def facts(self) -> dict:
        """What a checkpoint must know of the latents: VAE's latent = x0 * std + mean, by channel."""
        return {"latents": latent_scale(self.latent_normalisation, self.statistics, self.train.facts)}

    def with_statistics_from(self, state_facts: Mapping) -> "CachedImages":
        """With the latent statistics of an earlier run, unless it had none of this kind or others are set.

        What it returns is prepared anew.
        """
        before = state_facts["config"]["data"]
        same = all(before.get(name) == getattr(self, name) for name in ("latent_normalisation", "pretrained"))
        if not same or self.latent_normalisation == "none" or self.statistics is not None:
            return self
        return replace(self, statistics=state_facts["data"]["latents"])

    def to_latents(self, x0: Tensor) -> Tensor:
        """x0 (B, C, h, w) -> what the VAE decodes."""
        mean, std = self._scale
        return x0 * std + mean

    def batch_sizes(self, batch_size: int) -> set[int]:
        """Of all steps' whole batches; `batch_size` unless buckets have others."""
        if batch_size != self.batch_size:
            raise ConfigError(f"data.batch_size must be trainer.batch_size={batch_size}, got {self.batch_size}")
        return self._order.sizes()

    def size(self, step: int, batch_size: int) -> int:
        return self._order.size(step)

    def batch(self, step: int, rows: range, batch_size: int) -> Batch:
        return self._ahead(step, rows, batch_size)

    def held_out_batches(self, samples: int, batch_size: int) -> Iterator[tuple[range, Tensor, dict[str, Tensor]]]:
        return self._samples.held_out_batches(samples, batch_size)

    def order(self, sizes: np.ndarray, counts: np.ndarray) -> Order:
        """sizes (K, 2), counts (K,): samples to train on."""
        batches = [self.batch_size] * len(sizes)
        if self.batch_size_step is not None:
            areas = sizes.astype(np.int64).prod(1)
            largest = (self.batch_size * areas.max(initial=1) // areas).tolist()
            batches = [max(self.batch_size, size // self.batch_size_step * self.batch_size_step) for size in largest]
        return Order(counts=tuple(counts.tolist()), batches=tuple(batches), leftovers=self.leftovers, seed=self.seed)

    def write_report(self, folder: Path) -> list[Path]:
        """The plan, and what checkpoints know of the latents, beside what these ones' statistics are."""
        plan, facts = folder / "plan.txt", folder / "latents.json"
        plan.write_text(self.train.facts["report"], encoding="utf-8")
        measured = {name: self.train.facts[name] for name in ("mean", "std")}
        facts.write_text(json.dumps(self.facts | {"measured": measured}, indent=1), encoding="utf-8")
        return [plan, facts]

    @cached_property
    def _order(self) -> Order:
        return self.order(self.train.sizes.numpy(), self.train.counts[:, 0])

    @cached_property
    def _scale(self) -> tuple[Tensor, Tensor]:
        told = self.facts["latents"]
        return tuple(torch.tensor(told[name])[:, None, None] for name in ("mean", "std"))

    @cached_property
    def _samples(self) -> Samples:
        mean, std = self._scale
        return Samples(
            index=self.train,
            order=self._order,
            mean=mean,
            std=std,
            distribution=self.encoding.kind == "distribution",
            caption_dropout=self.caption_dropout,
            seed=self.seed,
        )

    @cached_property
    def _ahead(self) -> Ahead:
        return Ahead(self._samples.batch, self._order.size)
