"""Sampling grids: the levels that a sampler visits on its way from noise to data."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor

from ztsnr.core import checks
from ztsnr.core.checks import Bounds, NonEmpty, NonNegativeInt, Part, Positive, key
from ztsnr.core.errors import ConfigError
from ztsnr.core.schedule.density import Density
from ztsnr.core.schedule.table import SigmaTable, Terminal


class Grid(Part):
    def levels(self, steps: int) -> Tensor:
        """(steps,) float64, decreasing, above 0; the first may be inf."""
        raise NotImplementedError

    def sigmas(self, steps: int) -> Tensor:
        """(steps + 1,) float64: the levels, then 0. Raises ConfigError if the grid does not have that many."""
        checks.integer("steps", steps, at_least=1)
        levels = self.levels(steps)
        sigmas = torch.cat([levels, levels.new_zeros(1)])
        if not (sigmas.diff() < 0).all():
            raise ConfigError(f"steps={steps} would visit a level twice on this grid. Use fewer.")
        return sigmas

    @property
    def start(self) -> float:
        """The highest sigma that it starts from, whatever the number of steps; may be inf."""
        return self.levels(1)[0].item()


@dataclass(frozen=True, kw_only=True)
class KarrasGrid(Grid):
    """Equal steps in sigma^(1/rho) (EDM, arXiv 2206.00364, equation 5)."""

    sigma_min: Positive
    sigma_max: Positive
    rho: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.ascending("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    def levels(self, steps: int) -> Tensor:
        high = self.sigma_max ** (1 / self.rho)
        low = self.sigma_min ** (1 / self.rho)
        sigmas = (high + torch.linspace(0, 1, steps, dtype=torch.float64) * (low - high)) ** self.rho
        sigmas[-1] = self.sigma_min  # the ends exactly, whatever the power rounds to
        sigmas[0] = self.sigma_max
        return sigmas


def _size(table: SigmaTable, steps: int) -> int:
    """The table's length. Raises ConfigError if that is less than `steps`."""
    if steps > len(table.sigmas):
        raise ConfigError(f"steps must be at most {len(table.sigmas)}, the length of the grid's table, got {steps}")
    return len(table.sigmas)


@dataclass(frozen=True, kw_only=True)
class Trailing(Grid):
    """Equal steps through a table, its last level first (this and the next two: arXiv 2305.08891, Table 2)."""

    table: SigmaTable

    def levels(self, steps: int) -> Tensor:
        size = _size(self.table, steps)
        return self.table.sigmas[(size - torch.arange(steps).double() * size / steps).round().long() - 1]


@dataclass(frozen=True, kw_only=True)
class Leading(Grid):
    """Equal steps through a table, its first level last, all moved up by `offset`.

    The terminal level is left out, except for numbers of steps at which `offset` reaches it, such as half the table's.
    """

    table: SigmaTable
    offset: NonNegativeInt

    def levels(self, steps: int) -> Tensor:
        size = _size(self.table, steps)
        index = torch.arange(steps).flip(0) * (size // steps) + self.offset
        if index[0] >= size:
            raise ConfigError(f"steps={steps} with the grid's offset={self.offset} leaves the table of {size} levels")
        return self.table.sigmas[index]

    @property
    def start(self) -> float:
        return self.table.sigmas[-1].item()


@dataclass(frozen=True, kw_only=True)
class Linspace(Grid):
    """Equal steps through a table, both its ends visited."""

    table: SigmaTable

    def levels(self, steps: int) -> Tensor:
        size = _size(self.table, steps)
        down = torch.arange(steps).double() * (size - 1) / max(1, steps - 1)
        return self.table.sigmas[(size - 1 - down).round().long()]


@dataclass(frozen=True, kw_only=True)
class Quantiles(Grid):
    """Equal steps in u through a density's quantiles, from u_max down (Hang et al., arXiv 2407.03297: u_max = 0.99).

    u_max = 1 starts from the density's limit, which is inf for most.
    """

    density: Density
    u_max: Annotated[float, Bounds(above=0, at_most=1)]

    def levels(self, steps: int) -> Tensor:
        return self.density.sigma(torch.linspace(self.u_max, 0, steps + 1, dtype=torch.float64)[:-1])


@dataclass(frozen=True, kw_only=True)
class SigmaList(Grid):
    """A list of levels, in decreasing order; for any other number of steps, interpolated in ln sigma along the list.

    Align Your Steps (arXiv 2404.14507) publishes such lists and interpolates them so, though on to 0.029 in place of 0.
    """

    sigma_list: Annotated[tuple[Positive, ...], NonEmpty()]

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(high <= low for high, low in pairwise(self.sigma_list)):
            raise ConfigError(f"{key('sigma_list')} must decrease, got {list(self.sigma_list)}")

    def levels(self, steps: int) -> Tensor:
        listed = torch.tensor(self.sigma_list, dtype=torch.float64)
        position = torch.linspace(0, len(listed) - 1, steps, dtype=torch.float64)
        left = position.long()
        right = (left + 1).clamp(max=len(listed) - 1)
        share = position - left
        return listed[left].pow(1 - share) * listed[right].pow(share)


@dataclass(frozen=True, kw_only=True)
class WithTerminalStep(Grid):
    """A grid with one step from the terminal level before it: 20000, 17.8, ..., 0.0292, or inf, 17.8, ..."""

    grid: Grid
    terminal: Terminal

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.terminal <= self.grid.start:
            raise ConfigError(
                f"{key('terminal')} must exceed the start of the grid below it, {self.grid.start:.6g}, "
                f"got {self.terminal}"
            )

    def levels(self, steps: int) -> Tensor:
        terminal = torch.tensor([self.terminal], dtype=torch.float64)
        return torch.cat([terminal, self.grid.levels(steps - 1)]) if steps > 1 else terminal
