"""Learning-rate schedules: factors on the optimizer's rate. They depend only on the step, so they have no state."""

import math
from dataclasses import dataclass
from typing import Annotated

from ztsnr.core.checks import Bounds, Count, Fraction, NonNegativeInt, Part, Positive


@dataclass(frozen=True, kw_only=True)
class LRSchedule(Part):
    """A shape multiplied by a linear warm-up over the first `warmup` steps."""

    warmup: NonNegativeInt

    def factor(self, step: int, steps: int) -> float:
        """step in [0, steps) -> [0, 1]."""
        return min(1.0, (step + 1) / (self.warmup + 1)) * self.shape(step, steps)

    def shape(self, step: int, steps: int) -> float:
        """step in [0, steps) -> [0, 1], without the warm-up."""
        raise NotImplementedError

    def progress(self, step: int, steps: int) -> float:
        """From 0 at the end of the warm-up to 1 at `steps`, which no step reaches."""
        return max(0, step - self.warmup) / max(1, steps - self.warmup)


class Constant(LRSchedule):
    def shape(self, step: int, steps: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Cosine(LRSchedule):
    """`cycles` half cosines of equal length, each from 1 to `final` (arXiv 1608.03983)."""

    cycles: Count
    final: Fraction

    def shape(self, step: int, steps: int) -> float:
        in_cycle = self.cycles * self.progress(step, steps) % 1
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * in_cycle)) / 2


@dataclass(frozen=True, kw_only=True)
class Polynomial(LRSchedule):
    """(1 - progress)^power, from 1 to `final`; power 1 is linear."""

    power: Positive
    final: Fraction

    def shape(self, step: int, steps: int) -> float:
        return self.final + (1 - self.final) * (1 - self.progress(step, steps)) ** self.power


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(LRSchedule):
    """1 until the last fraction `decay` of the steps, then 1 - x^power down to `final` (arXiv 2404.06395).

    Power 1 is linear; 1/2 is the 1 - sqrt that works best in arXiv 2405.18392.
    """

    decay: Annotated[float, Bounds(above=0, at_most=1)]
    power: Positive
    final: Fraction

    def shape(self, step: int, steps: int) -> float:
        decayed = max(0.0, 1 - (steps - step) / (self.decay * steps))
        return self.final + (1 - self.final) * (1 - decayed**self.power)


@dataclass(frozen=True, kw_only=True)
class InverseSqrt(LRSchedule):
    """1 for `reference` steps, then sqrt(reference / step), as in EDM2 (arXiv 2312.02696); it needs no final step."""

    reference: Count

    def shape(self, step: int, steps: int) -> float:
        return max(step / self.reference, 1.0) ** -0.5
