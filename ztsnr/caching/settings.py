"""The settings for filling a cache, in addition to those for reading it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from ztsnr.caching.buckets import AutoSizes, Sizes
from ztsnr.caching.captions import Captions
from ztsnr.caching.decode import MaskSource
from ztsnr.caching.rarity import Rarity
from ztsnr.caching.shards import hashed, key_text
from ztsnr.core import checks
from ztsnr.core.checks import Bounds, Part, key
from ztsnr.core.errors import ConfigError
from ztsnr.data.cached import CachedImages
from ztsnr.io.remote import is_remote
from ztsnr.models.trainable import TrainableSelection

Channel = Annotated[float, Bounds(at_least=0, at_most=255)]


@dataclass(frozen=True, kw_only=True)
class Encoding(Part):
    """How images become latents. `kind`: mean of the VAE's distribution, one draw from it, or mean and log-variance.

    `precision` is that in which the VAE computes; what is not finite in bfloat16 is encoded again in float32.
    Images with a side above `tile` pixels go through it in overlapping tiles. `batch_size` is the largest.
    """

    kind: Literal["mean", "draw", "distribution"]
    precision: Literal["float32", "bfloat16"]
    dtype: Literal["float32", "float16", "bfloat16"]
    tile: Annotated[int, Bounds(at_least=64)] | None
    batch_size: checks.Count


@dataclass(frozen=True, kw_only=True)
class FolderOptions(Part):
    """How the images of some folders are trained: where `path` matches the path below the root or with its name.

    With `class_token` they are regularisation: that is the caption of those which have none, and no trigger is added.
    """

    path: str
    repeats: checks.Count = 1
    weight: checks.Positive = 1.0
    trigger: str = ""
    class_token: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_token is not None and self.trigger:
            raise ConfigError(f"data.folders: {self.path!r} cannot have both a trigger and a class_token")


PLAIN_FOLDER = FolderOptions(path="*")


def folder_options(entries: list[Any]) -> list[FolderOptions]:
    """Builds the config's entries, each with a path and some options. Raises ConfigError."""
    names = {field.name for field in fields(FolderOptions)}
    options = []
    for entry in entries:
        if not isinstance(entry, Mapping) or "path" not in entry or set(entry) - names:
            others = [field.name for field in fields(FolderOptions)][1:]
            raise ConfigError(f"data.folders must be a list of entries with path and any of {others}, got {entry!r}")
        with checks.constructing("data.folders"):
            options.append(FolderOptions(**entry))
    return options


@dataclass(frozen=True, kw_only=True)
class CacheSettings(CachedImages):
    """`root` says where the images are.

    `refresh` looks at the images first and encodes what is missing; without it the cache is trained as it was last made
    with these settings. `train_text` is model.train_text: text encoders that are trained take a caption's tokens, not
    its embeddings.
    """

    root: str | list[str]
    folders: list[Any]
    refresh: bool
    on_bad: Literal["skip", "stop"]
    workers: checks.NonNegativeInt
    """Threads that decode; 0 becomes the number of cores that this process may use."""
    background: tuple[Channel, Channel, Channel]
    masks: MaskSource
    max_aspect: Annotated[float, Bounds(at_least=1)]
    max_upscale: checks.Positive
    crops: checks.Count
    flip: bool
    sizes: Sizes | AutoSizes
    captions: Captions
    rarity: Rarity
    text_windows: checks.Count
    train_text: TrainableSelection | None
    encoding: Encoding
    held_out: Annotated[float, Bounds(above=0, below=1)]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "background", tuple(self.background))
        object.__setattr__(self, "workers", self.workers or len(os.sched_getaffinity(0)))
        _ = self.folder_options  # checks them
        if not self.roots:
            raise ConfigError(f"{key('root')} must be a path or a list of paths, got {self.root!r}")
        if self.refresh and is_remote(self.cache):
            remedy = f"Set {key('refresh')}=false, or use a local folder to fill a cache."
            raise ConfigError(f"{key('cache')}={self.cache} is read-only. {remedy}")

    @property
    def roots(self) -> list[str]:
        roots = self.root.split(",") if isinstance(self.root, str) else self.root
        return [root.strip() for root in roots if root.strip()]

    @cached_property
    def folder_options(self) -> list[FolderOptions]:
        return folder_options(self.folders)

    def identity(self) -> tuple:
        """Identifies the images."""
        raise NotImplementedError

    @property
    def index_name(self) -> str:
        """Path, below the cache, of the index that these settings make: a hash of all that decides on its content."""
        captions, encoding, rarity = self.captions, self.encoding, self.rarity

        # the order and the names are part of the format
        parts = [
            self.identity(),
            self.batch_size if self.leftovers == "merge" else None,
            self.pretrained,
            self.background,
            self.max_aspect,
            self.max_upscale,
            self.crops,
            self.flip,
            self.sizes.key_text,
            key_text(
                "Captions",
                variants=captions.variants,
                lines=captions.split_lines,
                separator=captions.separator,
                shuffle=captions.shuffle,
                keep_tokens=captions.keep_tokens,
                keep_separator=captions.keep_separator,
                tag_dropout=captions.tag_dropout,
                prefix=captions.prefix,
                suffix=captions.suffix,
            ),
            self.text_windows,
            key_text(
                "Encoding",
                kind=encoding.kind,
                precision=encoding.precision,
                dtype=encoding.dtype,
                tile=encoding.tile,
                batch_size=encoding.batch_size,
            ),
            self.held_out,
            key_text("Rarity", strength=rarity.strength, low=rarity.low, high=rarity.high),
            self.masks,
        ]

        if self.train_text is not None:  # its texts are tokens, not embeddings
            parts.append("tokens")
        return f"index/{hashed(*parts).hex()}.safetensors"

    @property
    def index_path(self) -> Path:
        return Path(self.cache) / self.index_name
