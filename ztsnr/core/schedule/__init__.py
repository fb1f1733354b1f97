"""A schedule groups four choices: a table of sigmas, a training density, a sampling grid, the network's timesteps."""

import math
from dataclasses import dataclass

import torch

from ztsnr.core.checks import Part, key
from ztsnr.core.errors import ConfigError
from ztsnr.core.noise import alpha
from ztsnr.core.schedule.density import Density
from ztsnr.core.schedule.grid import Grid
from ztsnr.core.schedule.table import SigmaTable
from ztsnr.core.schedule.timesteps import TimestepMap

MAX_ALPHA_GAP = 0.01
"""How much more signal than sampling's first level, in alpha, the noisiest training sample may have."""


@dataclass(frozen=True, kw_only=True)
class Schedule(Part):
    table: SigmaTable
    density: Density
    grid: Grid
    timesteps: TimestepMap

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_max == math.inf and not self.timesteps.finite_at_inf:
            raise ConfigError(
                f"{key('timesteps')} has no finite timestep at sigma = inf, which its {self.parts_at_inf} reaches. "
                f"Choose schedule/timesteps=table, or a finite schedule.table.terminal such as 20000."
            )
        self._refuse_unreached_start()

    def _refuse_unreached_start(self) -> None:
        """Sampling must not start from less signal than training ever shows (Lin et al., arXiv 2305.08891)."""
        start = self.grid.start
        highest = self.density.highest
        trained, sampled = alpha(torch.tensor([highest, start], dtype=torch.float64)).tolist()
        if trained - sampled > MAX_ALPHA_GAP:
            raise ConfigError(
                f"{key('grid')} starts sampling from sigma {start:.6g}, but {key('density')} draws no level above "
                f"{highest:.6g}. Choose a grid that starts there, or a density that reaches further: "
                f"schedule/density=laplace_terminal puts a share of draws at the terminal level."
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
