"""Encodes captions as embeddings, or as tokens if the text encoders are trained."""

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from ztsnr.caching.buckets import USED, Plan
from ztsnr.caching.catalogue import CatalogueEntry
from ztsnr.caching.settings import CacheSettings
from ztsnr.caching.shards import Keys, ShardStore, hashed
from ztsnr.devices.processes import local_device
from ztsnr.io.console import Progress
from ztsnr.models.source import Source
from ztsnr.models.text import TextEncoders, Tokenizers

SHARD_TEXTS = 256


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    group = "texts"


@dataclass(frozen=True)
class EncodedTexts:
    keys: list[list[bytes]]
    """The keys of each image's texts; none for an excluded image."""
    empty: bytes
    """The empty text's key."""
    known: Keys


def encode_texts(
    images: list[CatalogueEntry],
    plan: Plan,
    settings: CacheSettings,
    model: Source,
    weights: tuple[str, ...],
    *,
    progress: Progress,
) -> EncodedTexts:
    """Fills the cache with the texts of the images that the plan uses, and the empty one. Raises CacheError.

    `weights` are the fingerprints of the model's text encoders; none where those are trained.
    """
    texts: list[list[str]] = []
    for image, fate in zip(images, plan.fate, strict=True):
        own = []
        if fate == USED:
            own = settings.captions.texts(image.file.captions, image.file.folder.trigger, image.digest)
        texts.append(own)

    windows = settings.text_windows
    if settings.train_text is None:
        encoder = TextEncoder(model, weights, windows, settings.encoding.dtype)
    else:
        encoder = Tokenizer(model, windows)
    keys = {text: encoder.key(text) for text in dict.fromkeys(["", *chain.from_iterable(texts)])}
    entries = {key: Text(text) for text, key in keys.items()}
    known = ShardStore(Path(settings.cache), encoder.kind).fill(entries, encoder, SHARD_TEXTS, progress)
    return EncodedTexts([[keys[text] for text in own] for own in texts], keys[""], known)


class TextEncoder:
    """Texts -> {"text" (N, L, W), ...}, each of so many windows of tokens, in the cache's dtype."""

    kind = label = unit = "texts"
    batch_size = 64

    def __init__(self, model: Source, weights: tuple[str, ...], windows: int, dtype: str) -> None:
        self.model = model
        self.weights = weights
        self.windows = windows
        self.dtype = dtype

    def key(self, text: str) -> bytes:
        return hashed("text", text, self.windows, self.dtype, self.weights)

    def encode(self, batch: list[Text], upcoming: list[Text]) -> dict[str, Tensor]:
        texts = [self._encoders.tokenizers.cut(entry.text, self.windows) for entry in batch]
        embeddings = self._encoders.encode(texts, self.windows)
        return {name: value.to(getattr(torch, self.dtype)).cpu() for name, value in embeddings.items()}

    @cached_property
    def _encoders(self) -> TextEncoders:
        """Loads the text encoders only if the cache lacks a text."""
        return TextEncoders(self.model).to(local_device())


class Tokenizer:
    """Texts -> {"tokens" (N, encoders, windows, 77)}."""

    kind = "tokens"
    label = unit = "texts"
    batch_size = SHARD_TEXTS

    def __init__(self, model: Source, windows: int) -> None:
        self.windows = windows
        self.tokenizers = Tokenizers(model)
        self.vocabulary = hashed(self.tokenizers.identity).hex()

    def key(self, text: str) -> bytes:
        return hashed("tokens", text, self.windows, self.vocabulary)

    def encode(self, batch: list[Text], upcoming: list[Text]) -> dict[str, Tensor]:
        texts = [self.tokenizers.cut(entry.text, self.windows) for entry in batch]
        return {"tokens": self.tokenizers.tokens(texts, self.windows).int().contiguous()}
