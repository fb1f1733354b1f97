"""What an objective trains, in numbers: which levels are drawn, which weigh, and which sampling needs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ztsnr.core.objective import Objective
from ztsnr.core.target import EDM, X0, Eps, Flow, Target, V
from ztsnr.core.weighting import Unit

SDXL_MAX = 14.6
"""The highest level of Stable Diffusion as released; what lies above is what zero terminal SNR adds."""

BASES: Mapping[str, Target] = {"eps": Eps(), "x0": X0(), "v": V(), "edm": EDM(sigma_data=0.5), "flow": Flow()}
COMMON = V()
"""The base in which weights are added up: its error is of one size at all levels."""

STARVED = 0.1
"""A level is called starved below this part of the share that an even split over sampling's steps would give it."""
IDLE_WEIGHT, IDLE_DRAWS, BEYOND = 0.01, 0.1, 0.02
"""Draws are wasted where IDLE_DRAWS of them have IDLE_WEIGHT of the weight, or BEYOND lie above all sampling."""
SAME_WEIGHT, SAME_CURVE = 1e-6, 5e-4
"""Largest differences of weightings, relative, and of W, absolute, that count as none."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """`steps`: of sampling."""

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
        """(count,), each draw's share of the weight on the squared error of v."""
        weight = self.objective.weighting(self.draws, COMMON)
        return weight / weight.sum()

    @cached_property
    def grid(self) -> Tensor:
        return self.objective.schedule.grid.sigmas(self.steps)

    @property
    def start(self) -> float:
        return self.grid[0].item()

    def share(self, low: float, high: float = math.inf) -> tuple[float, float]:
        """Of the draws, and of the weight, at low < sigma <= high."""
        within = (self.draws > low) & (self.draws <= high)
        return within.double().mean().item(), self.weight[within].sum().item()

    def share_at(self, level: float) -> tuple[float, float]:
        at = self.draws == level
        return at.double().mean().item(), self.weight[at].sum().item()

    def running(self, sigma: Tensor) -> Tensor:
        """W: the weight's share up to and including sigma, (N,) -> (N,)."""
        place = torch.searchsorted(self.draws, sigma, right=True)
        return torch.cat([self.weight.new_zeros(1), self.weight.cumsum(0)])[place]

    def median(self) -> tuple[float, float]:
        """Of the draws, and of the weight, over sigma."""
        half = torch.searchsorted(self.weight.cumsum(0), 0.5).clamp(max=self.count - 1)
        return self.draws[self.count // 2].item(), self.draws[half].item()

    def notes(self) -> list[str]:
        """What is odd about it, a sentence each."""
        if not self.weight.isfinite().all():
            return ["The weights do not add up to a finite number: some level has weight inf, or all have 0."]
        return [*self._starved(), *self._wasted(), *self._cancelled()]

    def _starved(self) -> list[str]:
        after = self.grid[1].item()
        drawn, weighed = self.share(after)
        if weighed >= STARVED / self.steps:
            return []
        return [
            f"Starved: sampling starts from sigma {self.start:.4g}, but all levels above its next stop, {after:.3g}, "
            f"have {percent(weighed)} of the loss weight and {percent(drawn)} of the draws. Its first step is hardly "
            f"trained. Choose a weighting that keeps them (unit_v, min_snr_plus_one, min_snr_floor), a density with a "
            f"terminal mass, or a grid that starts lower."
        ]

    def _wasted(self) -> list[str]:
        order = self.weight.argsort()
        busy = self.draws[order[self.weight[order].cumsum(0) >= IDLE_WEIGHT]]
        low, high = busy.min().item(), busy.max().item()
        below, above = (self.draws < low).double().mean().item(), (self.draws > high).double().mean().item()
        notes = []
        if below + above > IDLE_DRAWS:
            sides = [f"{percent(below)} below sigma {low:.3g}"] * (below > 0)
            sides += [f"{percent(above)} above sigma {high:.3g}"] * (above > 0)
            notes.append(f"Wasted: {' and '.join(sides)} of the draws have at most 1 % of the loss weight together.")
        beyond = self.share(self.start)[0]
        if beyond > BEYOND:
            notes.append(
                f"Wasted: {percent(beyond)} of the draws are above sigma {self.start:.4g}, where sampling starts."
            )
        return notes

    def _cancelled(self) -> list[str]:
        weighting, sigma = self.objective.weighting, self.draws[(self.draws > 0) & self.draws.isfinite()][:: 2**6]
        if isinstance(weighting, Unit) or self.objective.learned:
            return []
        weight = weighting(sigma, COMMON)
        for name, base in BASES.items():
            ratio = weight / Unit(base=base)(sigma, COMMON)
            if ratio.max() - ratio.min() < SAME_WEIGHT * ratio.max():
                return [f"The weighting changes nothing here: at all levels drawn it is weighting=unit_{name}, scaled."]
        return []


def same_objectives(summaries: Mapping[str, Summary]) -> list[list[str]]:
    """Names of those that train alike: the same target and timesteps, and W proportional."""
    groups: list[list[str]] = []
    for name, summary in summaries.items():
        found = next((group for group in groups if _same(summaries[group[0]], summary)), None)
        if found is None:
            groups.append(found := [])
        found.append(name)
    return [group for group in groups if len(group) > 1]


def _same(one: Summary, other: Summary) -> bool:
    a, b = one.objective, other.objective
    if (a.target, a.schedule.timesteps, a.distance) != (b.target, b.schedule.timesteps, b.distance):
        return False
    if a.learned or b.learned:
        return False
    sigma = torch.cat([one.draws[:: 2**6], other.draws[:: 2**6]])
    return bool((one.running(sigma) - other.running(sigma)).abs().max() < SAME_CURVE)


def percent(share: float) -> str:
    number = 100 * share
    return "none" if number == 0 else f"{number:.3g} %" if number >= 0.01 else f"{number:.0e} %"
