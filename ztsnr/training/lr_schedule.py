"""Learning-rate schedules: the factor on the optimizer's rate, as a function of only the step, hence without state."""

import math
from dataclasses import dataclass
from typing import Annotated

from ztsnr.core.checks import Bounds, Count, Fraction, Index, Part, Positive


@dataclass(frozen=True, kw_only=True)
class LRSchedule(Part):
    """A shape, times a linear rise over the first `warmup` steps."""

    warmup: Index

    def factor(self, step: int, steps: int) -> float:
        """For step in [0, steps) -> [0, 1]."""
        return min(1.0, (step + 1) / (self.warmup + 1)) * self.shape(step, steps)

    def shape(self, step: int, steps: int) -> float:
        """For step in [0, steps) -> [0, 1]; a shape that starts after the rise is 1 until then."""
        raise NotImplementedError

    def progress(self, step: int, steps: int) -> float:
        """From 0 at the rise's end to 1 at `steps`, which no step reaches."""
        return max(0, step - self.warmup) / max(1, steps - self.warmup)


class Constant(LRSchedule):
    def shape(self, step: int, steps: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Cosine(LRSchedule):
    """Half a cosine from 1 to `final`, `cycles` times with as many steps each (arXiv 1608.03983)."""

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
    """1 until the last `decay` of the steps, there 1 - x^power to `final` (arXiv 2404.06395).

    Power 1 is linear, 1/2 the 1 - sqrt that arXiv 2405.18392 found best.
    """

    decay: Annotated[float, Bounds(above=0, at_most=1)]
    power: Positive
    final: Fraction

    def shape(self, step: int, steps: int) -> float:
        decayed = max(0.0, 1 - (steps - step) / (self.decay * steps))
        return self.final + (1 - self.final) * (1 - decayed**self.power)


@dataclass(frozen=True, kw_only=True)
class InverseSqrt(LRSchedule):
    """1 for `reference` steps, then sqrt(reference / step): EDM2's (arXiv 2312.02696), which needs no end."""

    reference: Count

    def shape(self, step: int, steps: int) -> float:
        return max(step / self.reference, 1.0) ** -0.5
