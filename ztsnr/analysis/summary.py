"""An objective in numbers: which noise levels training draws, how it weights them, and which sampling visits."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ztsnr.core.objective import Objective
from ztsnr.core.schedule.table import STABLE_DIFFUSION_MAX
from ztsnr.core.target import EDM, X0, Eps, Flow, Target, V
from ztsnr.core.weighting import Unit

SDXL_MAX = round(STABLE_DIFFUSION_MAX, 1)
"""The highest level of the released Stable Diffusion, 14.6. Zero terminal SNR adds the levels above it."""

BASES: Mapping[str, Target] = {"eps": Eps(), "x0": X0(), "v": V(), "edm": EDM(sigma_data=0.5), "flow": Flow()}
COMMON_BASE = V()
"""Weights are added up in this base, whose error has a similar size at all levels."""

STARVED_SHARE = 0.1
"""Sampling's first step is starved if its levels have less than this fraction of 1 / steps of the loss weight."""
IDLE_WEIGHT = 0.01
IDLE_DRAWS = 0.1
"""Draws are wasted if more than IDLE_DRAWS of them share at most IDLE_WEIGHT of the weight."""
UNUSED_DRAWS = 0.02
"""Draws are wasted if more than this share of them is above the level where sampling starts."""
SAME_WEIGHT = 1e-6
"""Smaller relative differences of two weightings are rounding errors."""
SAME_CURVE = 5e-4
"""Smaller absolute differences of two curves W are rounding errors."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """steps: of sampling. count: the number of draws that represent the density."""

    objective: Objective
    steps: int
    count: int = 2**16

    @cached_property
    def draws(self) -> Tensor:
        """(count,) ascending"""
        return self.objective.draws(self.count)

    @cached_property
    @torch.no_grad()
    def weight(self) -> Tensor:
        """(count,): each draw's share of the weight on the squared error of v."""
        weight = self.objective.weighting(self.draws, COMMON_BASE)
        return weight / weight.sum()

    @cached_property
    def grid(self) -> Tensor:
        """(steps + 1,): the levels that sampling visits, and 0."""
        return self.objective.schedule.grid.sigmas(self.steps)

    @property
    def start(self) -> float:
        return self.grid[0].item()

    def share(self, low: float, high: float = math.inf) -> tuple[float, float]:
        """The shares of the draws and of the weight at low < sigma <= high."""
        within = (self.draws > low) & (self.draws <= high)
        return within.double().mean().item(), self.weight[within].sum().item()

    def share_at(self, level: float) -> tuple[float, float]:
        """The shares of the draws and of the weight at exactly this level."""
        at = self.draws == level
        return at.double().mean().item(), self.weight[at].sum().item()

    def cumulative_share(self, sigma: Tensor) -> Tensor:
        """The share of the weight up to and including sigma, which is W divided by its total; (N,) -> (N,)."""
        total = sigma.new_full((1,), math.inf)
        cumulative = self.objective.cumulative_weight(torch.cat([sigma, total]), COMMON_BASE, self.count)
        return cumulative[:-1] / cumulative[-1]

    def median(self) -> tuple[float, float]:
        """The median level of the draws, and that of the weight."""
        half = torch.searchsorted(self.weight.cumsum(0), 0.5).clamp(max=self.count - 1)
        return self.draws[self.count // 2].item(), self.draws[half].item()

    def notes(self) -> list[str]:
        """Warnings about the objective."""
        if not self.weight.isfinite().all():
            return ["The weights do not add up to a finite number: a level has weight inf, or all have 0."]
        return [*self._starved(), *self._wasted(), *self._cancelled()]

    def _starved(self) -> list[str]:
        """Warns if training hardly visits the levels where sampling starts."""
        after = self.grid[1].item()
        draws, weight = self.share(after)
        if weight >= STARVED_SHARE / self.steps:
            return []
        return [
            f"Starved: sampling starts from sigma {self.start:.4g}, but all levels above its next stop, {after:.3g}, "
            f"have {percent(weight)} of the loss weight and {percent(draws)} of the draws. Its first step is hardly "
            f"trained. Choose a weighting that keeps them (unit_v, min_snr_plus_one, min_snr_floor), a density with a "
            f"terminal mass, or a grid that starts lower."
        ]

    def _wasted(self) -> list[str]:
        """Warns if many draws have little weight, or are above the level where sampling starts."""
        order = self.weight.argsort()
        busy = self.draws[order[self.weight[order].cumsum(0) >= IDLE_WEIGHT]]
        low = busy.min().item()
        high = busy.max().item()
        below = (self.draws < low).double().mean().item()
        above = (self.draws > high).double().mean().item()

        notes = []
        if below + above > IDLE_DRAWS:
            sides = []
            if below > 0:
                sides.append(f"{percent(below)} below sigma {low:.3g}")
            if above > 0:
                sides.append(f"{percent(above)} above sigma {high:.3g}")
            notes.append(f"Wasted: {' and '.join(sides)} of the draws have at most 1 % of the loss weight together.")

        unused = self.share(self.start)[0]
        if unused > UNUSED_DRAWS:
            notes.append(
                f"Wasted: {percent(unused)} of the draws are above sigma {self.start:.4g}, where sampling starts."
            )
        return notes

    def _cancelled(self) -> list[str]:
        """Warns if the weighting is constant in some base, over the levels that are drawn."""
        weighting = self.objective.weighting
        if isinstance(weighting, Unit) or self.objective.learned:
            return []
        sigma = self.draws[(self.draws > 0) & self.draws.isfinite()][:: 2**6]
        weight = weighting(sigma, COMMON_BASE)
        for name, base in BASES.items():
            ratio = weight / Unit(base=base)(sigma, COMMON_BASE)
            if ratio.max() - ratio.min() < SAME_WEIGHT * ratio.max():
                return [f"The weighting changes nothing here: at all levels drawn it is weighting=unit_{name}, scaled."]
        return []


def same_objectives(summaries: Mapping[str, Summary]) -> list[list[str]]:
    """Groups of names of objectives that train alike: the same target, timesteps and distance, and W proportional."""
    groups: list[list[str]] = []
    for name, summary in summaries.items():
        for group in groups:
            if _same(summaries[group[0]], summary):
                group.append(name)
                break
        else:
            groups.append([name])
    return [group for group in groups if len(group) > 1]


def _same(one: Summary, other: Summary) -> bool:
    a = one.objective
    b = other.objective
    if (a.target, a.schedule.timesteps, a.distance) != (b.target, b.schedule.timesteps, b.distance):
        return False
    if a.learned or b.learned:
        return False
    sigma = torch.cat([one.draws[:: 2**6], other.draws[:: 2**6]])
    difference = one.cumulative_share(sigma) - other.cumulative_share(sigma)
    return bool(difference.abs().max() < SAME_CURVE)


def percent(share: float) -> str:
    """A share as a percentage, for example none, 0.06 %, 3e-05 %."""
    number = 100 * share
    if number == 0:
        return "none"
    return f"{number:.3g} %" if number >= 0.01 else f"{number:.0e} %"
