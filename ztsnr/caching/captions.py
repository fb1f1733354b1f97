"""Caption variants: shuffles and drops tags, chooses wildcards, adds prefix, trigger and suffix."""

import re
from dataclasses import dataclass
from typing import Annotated

import torch

from ztsnr.core import checks
from ztsnr.core.checks import Bounds, Part
from ztsnr.core.randomness import generator

CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")
"""A wildcard {a|b} without a nested one; choosing the innermost first allows nesting."""


@dataclass(frozen=True, kw_only=True)
class Captions(Part):
    """Generates `variants` of each caption. Their random draws depend only on the image's content and their number.

    The first `keep_tokens` tags, and all tags before the first `keep_separator`, are neither shuffled nor dropped. With
    `split_lines`, each line is a separate caption.
    """

    variants: checks.Count
    split_lines: bool
    separator: str
    shuffle: bool
    keep_tokens: checks.NonNegativeInt
    keep_separator: str | None
    tag_dropout: Annotated[float, Bounds(at_least=0, below=1)]
    prefix: str
    suffix: str

    def texts(self, captions: tuple[str, ...], trigger: str, digest: bytes) -> list[str]:
        """The distinct texts of an image; `trigger` comes after the prefix and before the tags.

        An image without a caption has the empty caption. `digest`: hash of the image's content.
        """
        if self.split_lines:
            captions = tuple(line for caption in captions for line in caption.splitlines())
        cleaned = [" ".join(caption.split()) for caption in captions if caption.strip()] or [""]

        texts = []
        for number, caption in enumerate(cleaned):
            for variant in range(self.variants):
                source = generator(0, f"caption {digest.hex()}", number, variant)
                texts.append(self._text(caption, trigger, source))
        return list(dict.fromkeys(texts))

    def _text(self, caption: str, trigger: str, source: torch.Generator) -> str:
        while choice := CHOICE.search(caption):
            options = choice[1].split("|")
            chosen = options[int(torch.randint(len(options), (), generator=source))].strip()
            caption = caption[: choice.start()] + chosen + caption[choice.end() :]
        return self.prefix + self._join([trigger, *self.tags(caption, source)]) + self.suffix

    def tags(self, caption: str, source: torch.Generator) -> list[str]:
        """The caption's tags after shuffling and dropout. Without either, the complete caption is the only tag."""
        if not (self.shuffle or self.tag_dropout or self.keep_separator):
            return [caption]
        fixed, free = self._divide(caption)
        if self.shuffle:
            free = [free[i] for i in torch.randperm(len(free), generator=source)]
        draws = torch.rand(len(free), generator=source).tolist()
        return fixed + [tag for tag, draw in zip(free, draws, strict=True) if draw >= self.tag_dropout]

    def _divide(self, caption: str) -> tuple[list[str], list[str]]:
        """The tags to keep, and the tags to shuffle and drop."""
        fixed: list[str] = []
        free = self.split(caption)
        if self.keep_separator and self.keep_separator in caption:
            before, _, after = caption.partition(self.keep_separator)
            fixed = self.split(before)
            free = self.split(after)
        more = max(0, self.keep_tokens - len(fixed))  # keep_tokens counts the tags before the separator
        return fixed + free[:more], free[more:]

    def split(self, caption: str) -> list[str]:
        return [tag.strip() for tag in caption.split(self.separator.strip() or None) if tag.strip()]

    def _join(self, tags: list[str]) -> str:
        return self.separator.join(tag for tag in tags if tag)
