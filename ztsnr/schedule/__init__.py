"""A schedule groups four choices: a table of sigmas, a density to train on, a grid to sample on, timesteps to tell."""

import math
from dataclasses import dataclass

from ztsnr import check
from ztsnr.errors import ConfigError
from ztsnr.schedule.density import Density
from ztsnr.schedule.grid import Grid
from ztsnr.schedule.table import SigmaTable
from ztsnr.schedule.timesteps import TimestepMap


@dataclass(frozen=True, kw_only=True)
class Schedule:
    table: SigmaTable
    density: Density
    grid: Grid
    timesteps: TimestepMap

    def __post_init__(self):
        for name, kind in (("table", SigmaTable), ("density", Density), ("grid", Grid), ("timesteps", TimestepMap)):
            check.instance(f"schedule.{name}", getattr(self, name), kind)
        if self.sigma_max == math.inf and not self.timesteps.finite_at_inf:
            raise ConfigError(
                f"schedule.timesteps={type(self.timesteps).__name__} has no finite timestep at sigma = inf, which "
                f"its {self.parts_at_inf} reaches. Choose schedule/timesteps=table, "
                f"or a finite schedule.table.terminal such as 20000."
            )

    @property
    def sigma_max(self) -> float:
        """The highest level that is drawn for training or that sampling starts from; may be inf."""
        return max(self.density.highest, self.grid.start)

    @property
    def parts_at_inf(self) -> str:
        """Which parts reach sigma = inf, for messages: '', 'density', 'grid' or 'density and grid'."""
        reach = {"density": self.density.highest, "grid": self.grid.start}
        return " and ".join(name for name, sigma in reach.items() if sigma == math.inf)


__all__ = ["Density", "Grid", "Schedule", "SigmaTable", "TimestepMap"]
