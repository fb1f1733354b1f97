"""Weights of samples by how rare their tags are: NovelAI's idea (arXiv 2409.15997), in a formula of our own."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ztsnr.caching.keys import KeyText, key_text
from ztsnr.core import checks

SHOWN = 50


@dataclass(frozen=True, kw_only=True)
class Rarity:
    """A tag's weight is (c / count)^strength, a sample's the mean of its tags', bounded by `low` and `high`.

    The count is of the samples that are trained and have the tag; c is such that the mean over them is 1 before it is
    bounded. strength 0 weighs all alike; 1 gives each tag the same total weight, were it the only one of its samples.
    A sample without a tag has weight 1.
    """

    strength: float
    low: float
    high: float

    def __post_init__(self):
        checks.finite("data.rarity.strength", self.strength, at_least=0, at_most=1)
        checks.finite("data.rarity.low", self.low, above=0, at_most=1)
        checks.finite("data.rarity.high", self.high, at_least=1)

    @property
    def key_text(self) -> KeyText:
        return key_text("Rarity", strength=self.strength, low=self.low, high=self.high)

    def weights(self, tags: list[frozenset[str]], times: np.ndarray) -> tuple[np.ndarray, dict[str, tuple[int, float]]]:
        """tags of each picture, which is trained so many `times` (N,): weights (N,), and tag -> count and weight."""
        counts: Counter[str] = Counter()
        for own, count in zip(tags, times.tolist(), strict=True):
            counts.update(dict.fromkeys(own, count) if count else ())
        plain = {tag: count**-self.strength for tag, count in counts.items()}
        raw = np.array([np.mean([plain.get(tag, 1.0) for tag in sorted(own)]) if own else np.nan for own in tags])
        tagged = ~np.isnan(raw) & (times > 0)
        scale = np.average(raw[tagged], weights=times[tagged]) if tagged.any() else 1.0
        commonest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        weights = np.where(np.isnan(raw), 1.0, raw / scale).clip(self.low, self.high)
        return weights, {tag: (count, plain[tag] / scale) for tag, count in commonest[:SHOWN]}

    def tell(self, commonest: dict[str, tuple[int, float]], weights: np.ndarray) -> str:
        """The commonest tags and what they weigh."""
        bounds = f"{weights.min():.3f} to {weights.max():.3f}, mean {weights.mean():.3f}"
        head = f"\nweights by rarity of tags (strength {self.strength:g}): {bounds}\n"
        rows = [f"{count:9}  {weight:6.3f}  {tag}" for tag, (count, weight) in commonest.items()]
        return head + "\n".join(["  samples  weight  tag", *rows]) + "\n"
