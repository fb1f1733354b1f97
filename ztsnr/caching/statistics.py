"""Mean and variance in one pass: of each entry by itself, and merged (Chan, Golub and LeVeque, 1983)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """`count` numbers of each channel, their mean and their sum of squared distances from it, (C,) float64."""

    count: float
    mean: Tensor
    distance: Tensor

    @property
    def std(self) -> Tensor:
        return (self.distance / self.count).sqrt()

    @property
    def pooled(self) -> "Moments":
        """Of all channels taken together, (1,)."""
        parts = zip(self.mean[:, None], self.distance[:, None], strict=True)
        return merged([Moments(self.count, mean, distance) for mean, distance in parts])


def moments_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (N, C, ...) -> each entry's mean and sum of squared distances, (N, C) float64 both."""
    flat = x.double().flatten(2)
    mean = flat.mean(2)
    return mean, (flat - mean[..., None]).square().sum(2)


def stacked(counts: Tensor, means: Tensor, distances: Tensor) -> Moments:
    """Of N groups with counts (N,), means and distances (N, C), by the formula of `merged` for all at once."""
    total = counts.sum()
    mean = (counts[:, None] * means).sum(0) / total
    between = (counts[:, None] * (means - mean).square()).sum(0)
    return Moments(float(total), mean, distances.sum(0) + between)


def merged(parts: list[Moments]) -> Moments:
    """Of all parts together, in their order."""
    total = parts[0]
    for part in parts[1:]:
        count, gap = total.count + part.count, part.mean - total.mean
        mean = total.mean + gap * (part.count / count)
        distance = total.distance + part.distance + gap.square() * (total.count * part.count / count)
        total = Moments(count, mean, distance)
    return total


def all_finite(x: Tensor) -> Tensor:
    """(N,) bool: which entries are finite throughout."""
    return torch.isfinite(x).flatten(1).all(1)
