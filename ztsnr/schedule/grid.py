"""Sampling grids: where a sampler stops on its way from noise to data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ztsnr import check
from ztsnr.errors import ConfigError
from ztsnr.schedule.density import Density
from ztsnr.schedule.table import SigmaTable


class Grid:
    def sigmas(self, steps: int) -> Tensor:
        """(steps + 1,) float64, decreasing; the first may be inf, the last is 0."""
        raise NotImplementedError

    @property
    def start(self) -> float:
        """The first sigma, whatever the number of steps; may be inf."""
        return self.sigmas(1)[0].item()


def _ending_in_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


@dataclass(frozen=True, kw_only=True)
class Karras(Grid):
    """Equal steps in sigma^(1/rho) (EDM, arXiv 2206.00364, equation 5)."""

    sigma_min: float
    sigma_max: float
    rho: float

    def __post_init__(self):
        check.finite("grid.sigma_min", self.sigma_min, above=0)
        check.finite("grid.sigma_max", self.sigma_max, above=0)
        check.finite("grid.rho", self.rho, above=0)
        if self.sigma_min >= self.sigma_max:
            raise ConfigError(f"grid.sigma_min must be below grid.sigma_max={self.sigma_max}, got {self.sigma_min}")

    def sigmas(self, steps: int) -> Tensor:
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        sigmas = (high + torch.linspace(0, 1, steps, dtype=torch.float64) * (low - high)) ** self.rho
        sigmas[1:].clamp_(min=self.sigma_min)  # the ends exactly, whatever the power rounds to
        sigmas[:1] = self.sigma_max
        return _ending_in_zero(sigmas)


@dataclass(frozen=True, kw_only=True)
class Trailing(Grid):
    """Equal steps through a table, its last level first (Lin et al., arXiv 2305.08891, Table 2)."""

    table: SigmaTable

    def __post_init__(self):
        check.instance("grid.table", self.table, SigmaTable)

    def sigmas(self, steps: int) -> Tensor:
        size = len(self.table.sigmas)
        if steps > size:
            raise ConfigError(f"steps must be at most {size}, the length of the grid's table, got {steps}")
        index = (size - torch.arange(steps, dtype=torch.float64) * size / steps).round().long() - 1
        return _ending_in_zero(self.table.sigmas[index])


@dataclass(frozen=True, kw_only=True)
class Quantiles(Grid):
    """Equal steps in u through a density's quantiles, from u_max down (Hang et al., arXiv 2407.03297: u_max = 0.99)."""

    density: Density
    u_max: float

    def __post_init__(self):
        check.instance("grid.density", self.density, Density)
        check.finite("grid.u_max", self.u_max, above=0, below=1)

    def sigmas(self, steps: int) -> Tensor:
        u = torch.linspace(self.u_max, 0, steps + 1, dtype=torch.float64)[:-1]
        sigmas = _ending_in_zero(self.density.sigma(u))
        if not (sigmas.diff() < 0).all():
            raise ConfigError(
                f"steps={steps} through the quantiles of grid.density would visit a level twice: the density has atoms "
                f"there. Use fewer steps, a lower grid.u_max, or the density without its terminal mass."
            )
        return sigmas


@dataclass(frozen=True, kw_only=True)
class FromTerminal(Grid):
    """Another grid, entered by one step from the terminal level: 20000, 17.8, ..., 0.0292, or inf, 17.8, ..."""

    grid: Grid
    terminal: float

    def __post_init__(self):
        check.instance("grid.grid", self.grid, Grid)
        check.number("grid.terminal", self.terminal, above=0)
        if self.terminal <= self.grid.start:
            raise ConfigError(
                f"grid.terminal must exceed the start of the grid it enters, {self.grid.start:.6g}, got {self.terminal}"
            )

    def sigmas(self, steps: int) -> Tensor:
        rest = self.grid.sigmas(steps - 1) if steps > 1 else torch.zeros(1, dtype=torch.float64)
        return torch.cat([rest.new_tensor([self.terminal]), rest])
