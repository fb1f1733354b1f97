"""Sampling grids: where a sampler stops on its way from noise to data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ztsnr.core import checks
from ztsnr.core.errors import ConfigError
from ztsnr.core.schedule.density import Density
from ztsnr.core.schedule.table import SigmaTable


class Grid:
    def levels(self, steps: int) -> Tensor:
        """(steps,) float64, decreasing, above 0; the first may be inf."""
        raise NotImplementedError

    def sigmas(self, steps: int) -> Tensor:
        """(steps + 1,) float64: the levels, and 0 at the end. Raises ConfigError where the grid has not so many."""
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

    sigma_min: float
    sigma_max: float
    rho: float

    def __post_init__(self):
        checks.ascending("grid.sigma_min", self.sigma_min, "grid.sigma_max", self.sigma_max)
        checks.finite("grid.rho", self.rho, above=0)

    def levels(self, steps: int) -> Tensor:
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        sigmas = (high + torch.linspace(0, 1, steps, dtype=torch.float64) * (low - high)) ** self.rho
        sigmas[-1] = self.sigma_min  # the ends exactly, whatever the power rounds to
        sigmas[0] = self.sigma_max
        return sigmas


def _size(table: SigmaTable, steps: int) -> int:
    if steps > len(table.sigmas):
        raise ConfigError(f"steps must be at most {len(table.sigmas)}, the length of the grid's table, got {steps}")
    return len(table.sigmas)


@dataclass(frozen=True, kw_only=True)
class Trailing(Grid):
    """Equal steps through a table, its last level first (this and the next two: arXiv 2305.08891, Table 2)."""

    table: SigmaTable

    def __post_init__(self):
        checks.instance("grid.table", self.table, SigmaTable)

    def levels(self, steps: int) -> Tensor:
        size = _size(self.table, steps)
        return self.table.sigmas[(size - torch.arange(steps).double() * size / steps).round().long() - 1]


@dataclass(frozen=True, kw_only=True)
class Leading(Grid):
    """Equal steps through a table, its first level last, all moved up by `offset`.

    The terminal level is left out, but for numbers of steps at which `offset` reaches it, such as half the table's.
    """

    table: SigmaTable
    offset: int

    def __post_init__(self):
        checks.instance("grid.table", self.table, SigmaTable)
        checks.integer("grid.offset", self.offset, at_least=0)

    def levels(self, steps: int) -> Tensor:
        size = _size(self.table, steps)
        index = torch.arange(steps).flip(0) * (size // steps) + self.offset
        if index[0] >= size:
            raise ConfigError(f"steps={steps} with grid.offset={self.offset} leaves the table of {size} levels")
        return self.table.sigmas[index]

    @property
    def start(self) -> float:
        return self.table.sigmas[-1].item()


@dataclass(frozen=True, kw_only=True)
class Linspace(Grid):
    """Equal steps through a table, both its ends visited."""

    table: SigmaTable

    def __post_init__(self):
        checks.instance("grid.table", self.table, SigmaTable)

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
    u_max: float

    def __post_init__(self):
        checks.instance("grid.density", self.density, Density)
        checks.finite("grid.u_max", self.u_max, above=0, at_most=1)

    def levels(self, steps: int) -> Tensor:
        return self.density.sigma(torch.linspace(self.u_max, 0, steps + 1, dtype=torch.float64)[:-1])


@dataclass(frozen=True, kw_only=True)
class SigmaList(Grid):
    """The given levels, in decreasing order; for another number of steps, interpolated in ln sigma along the list.

    Align Your Steps (arXiv 2404.14507) publishes such lists and interpolates them so, though on to 0.029 in place of 0.
    """

    sigma_list: tuple[float, ...]

    def __post_init__(self):
        checks.numbers("grid.sigma_list", self.sigma_list, above=0)
        if any(high <= low for high, low in zip(self.sigma_list, self.sigma_list[1:], strict=False)):
            raise ConfigError(f"grid.sigma_list must decrease, got {list(self.sigma_list)}")

    def levels(self, steps: int) -> Tensor:
        listed = torch.tensor(self.sigma_list, dtype=torch.float64)
        place = torch.linspace(0, len(listed) - 1, steps, dtype=torch.float64)
        left = place.long()
        right, share = (left + 1).clamp(max=len(listed) - 1), place - left
        return listed[left].pow(1 - share) * listed[right].pow(share)


@dataclass(frozen=True, kw_only=True)
class WithTerminalStep(Grid):
    """Another grid, entered by one step from the terminal level: 20000, 17.8, ..., 0.0292, or inf, 17.8, ..."""

    grid: Grid
    terminal: float

    def __post_init__(self):
        checks.instance("grid.grid", self.grid, Grid)
        checks.number("grid.terminal", self.terminal, above=0)
        if self.terminal <= self.grid.start:
            raise ConfigError(
                f"grid.terminal must exceed the start of the grid it enters, {self.grid.start:.6g}, got {self.terminal}"
            )

    def levels(self, steps: int) -> Tensor:
        terminal = torch.tensor([self.terminal], dtype=torch.float64)
        return torch.cat([terminal, self.grid.levels(steps - 1)]) if steps > 1 else terminal
