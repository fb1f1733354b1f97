"""Weights samples by the rarity of their tags: NovelAI's idea (arXiv 2409.15997) with our own formula."""

from collections import Counter
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from ztsnr.core import checks
from ztsnr.core.checks import Bounds, Part

REPORTED_TAGS = 50
TagWeights = dict[str, tuple[int, float]]
"""Tag -> number of samples with it, and its weight."""


@dataclass(frozen=True, kw_only=True)
class Rarity(Part):
    """A tag's weight is (c / count)^strength. A sample's is the mean of its tags', clipped to [low, high].

    count is the number of training samples with the tag. c makes the mean weight of training samples with tags 1,
    before clipping. strength 0 weights all samples equally. strength 1 would give each tag the same total weight if
    each sample had one tag. A sample without a tag has weight 1.
    """

    strength: checks.Fraction
    low: Annotated[float, Bounds(above=0, at_most=1)]
    high: Annotated[float, Bounds(at_least=1)]

    def weights(self, tags: list[frozenset[str]], times: np.ndarray) -> tuple[np.ndarray, TagWeights]:
        """The images' weights (N,), and the weights of the most common tags.

        tags: of each image. times (N,): how often an epoch trains each image.
        """
        counts: Counter[str] = Counter()
        for own, count in zip(tags, times.tolist(), strict=True):
            if count:
                counts.update(dict.fromkeys(own, count))
        tag_weights = {tag: count**-self.strength for tag, count in counts.items()}

        # the mean of the tags' weights; nan for an image without tags
        means = np.full(len(tags), np.nan)
        for number, own in enumerate(tags):
            if own:
                means[number] = np.mean([tag_weights.get(tag, 1.0) for tag in sorted(own)])

        # scale the mean over all training samples with tags to 1
        is_tagged = ~np.isnan(means) & (times > 0)
        scale = np.average(means[is_tagged], weights=times[is_tagged]) if is_tagged.any() else 1.0
        weights = np.where(np.isnan(means), 1.0, means / scale).clip(self.low, self.high)

        commonest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:REPORTED_TAGS]
        return weights, {tag: (count, tag_weights[tag] / scale) for tag, count in commonest}

    def report(self, commonest: TagWeights, weights: np.ndarray) -> str:
        """A table of the most common tags and their weights."""
        bounds = f"{weights.min():.3f} to {weights.max():.3f}, mean {weights.mean():.3f}"
        lines = [f"\nweights by rarity of tags (strength {self.strength:g}): {bounds}", "  samples  weight  tag"]
        lines += [f"{count:9}  {weight:6.3f}  {tag}" for tag, (count, weight) in commonest.items()]
        return "\n".join(lines) + "\n"
