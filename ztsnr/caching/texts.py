"""Captions for a network: their embeddings, or tokens for text encoders that are trained."""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from ztsnr.caching.buckets import USED, Plan
from ztsnr.caching.catalogue import CatalogueEntry
from ztsnr.caching.latents import AdaptiveBatches
from ztsnr.caching.settings import CacheSettings
from ztsnr.caching.shards import Keys, ShardStore, hashed
from ztsnr.devices.processes import local_device
from ztsnr.io.console import Progress, Report
from ztsnr.models.pretrained import find_source
from ztsnr.models.text import TextEncoders, Tokenizers

SHARD_TEXTS = 256
BATCH_SIZE = 64
"""Texts that go through the encoders at once, at most."""


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    group = "texts"


@dataclass(frozen=True)
class EncodedTexts:
    keys: list[list[bytes]]
    """Parallel to the images: those of each one's texts; none of an image that is left out."""
    empty: bytes
    """The empty text's key."""
    known: Keys


def encode_texts(images: list[CatalogueEntry], plan: Plan, settings: CacheSettings, progress: Progress) -> EncodedTexts:
    """Fills the cache with the texts of the images that the plan uses, and the empty one. Raises CacheError."""
    texts: list[list[str]] = []
    for image, fate in zip(images, plan.fate, strict=True):
        own = []
        if fate == USED:
            own = settings.captions.texts(image.file.captions, image.file.folder.trigger, image.digest)
        texts.append(own)

    encoder = Tokenizer(settings) if settings.train_text is not None else TextEncoder(settings)
    distinct = dict.fromkeys(["", *(text for own in texts for text in own)])
    keys = {text: encoder.key(text) for text in distinct}
    wanted = {key: Text(text) for text, key in keys.items()}
    with progress.counting("texts", len(wanted), "texts") as report:
        store = ShardStore(Path(settings.cache), encoder.kind)
        known = store.fill(wanted, SHARD_TEXTS, partial(encoder, report=report), partial(report, 0))
    return EncodedTexts([[keys[text] for text in own] for own in texts], keys[""], known)


class TextEncoder:
    """encoder(texts) -> {"text" (N, L, W), ...}, each of so many windows of tokens, in the cache's dtype."""

    kind = "texts"

    def __init__(self, settings: CacheSettings) -> None:
        self.pretrained = settings.pretrained
        self.windows = settings.text_windows
        self.dtype = settings.encoding.dtype
        self.batches = AdaptiveBatches(BATCH_SIZE)

    def key(self, text: str) -> bytes:
        return hashed("text", text, self.windows, self.dtype, self._weights)

    def __call__(self, texts: list[Text], report: Report) -> dict[str, Tensor]:
        def encode(items: range) -> dict[str, Tensor]:
            cut = [self._encoders.tokenizers.cut(texts[i].text, self.windows) for i in items]
            embeddings = self._encoders.encode(cut, self.windows)
            report(len(items))
            return {name: value.to(getattr(torch, self.dtype)).cpu() for name, value in embeddings.items()}

        return self.batches.map(len(texts), encode)

    @cached_property
    def _weights(self) -> tuple[str, ...]:
        source = find_source(self.pretrained)
        return tuple(source.fingerprint(part) for part in source.text_encoders)

    @cached_property
    def _encoders(self) -> TextEncoders:
        """Loaded only where a text is missing in the cache."""
        return TextEncoders(find_source(self.pretrained)).to(local_device())


class Tokenizer:
    """tokenizer(texts) -> {"tokens" (N, encoders, windows, 77)}."""

    kind = "tokens"

    def __init__(self, settings: CacheSettings) -> None:
        self.windows = settings.text_windows
        self.tokenizers = Tokenizers(find_source(settings.pretrained))
        self.vocabulary = hashed(self.tokenizers.identity).hex()

    def key(self, text: str) -> bytes:
        return hashed("tokens", text, self.windows, self.vocabulary)

    def __call__(self, texts: list[Text], report: Report) -> dict[str, Tensor]:
        cut = [self.tokenizers.cut(entry.text, self.windows) for entry in texts]
        report(len(texts))
        return {"tokens": self.tokenizers.tokens(cut, self.windows).int().contiguous()}
