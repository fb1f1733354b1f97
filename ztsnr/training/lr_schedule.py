"""Learning-rate schedules: the factor on the optimizer's rate, as a function of the step alone, hence without state."""

import math
from dataclasses import dataclass

from ztsnr import check


class LRSchedule:
    def factor(self, step: int, steps: int) -> float:
        """For step in [0, steps) -> [0, 1]."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Constant(LRSchedule):
    """1, after a linear rise over `warmup` steps."""

    warmup: int

    def __post_init__(self):
        check.integer("lr_schedule.warmup", self.warmup, at_least=0)

    def factor(self, step: int, steps: int) -> float:
        return min(1.0, (step + 1) / (self.warmup + 1))


@dataclass(frozen=True, kw_only=True)
class Cosine(LRSchedule):
    """Half a cosine from 1 to `final`, after a linear rise over `warmup` steps (arXiv 1608.03983)."""

    warmup: int
    final: float

    def __post_init__(self):
        check.integer("lr_schedule.warmup", self.warmup, at_least=0)
        check.finite("lr_schedule.final", self.final, at_least=0, at_most=1)

    def factor(self, step: int, steps: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        progress = (step - self.warmup) / max(1, steps - self.warmup)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2
