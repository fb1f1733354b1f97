"""What the network is told about the noise level: a fact about the network, not about the noise."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ztsnr.core import checks
from ztsnr.core.schedule.table import SigmaTable


class TimestepMap:
    finite_at_inf: ClassVar[bool]

    def __call__(self, sigma: Tensor) -> Tensor:
        """sigma (B,) -> t (B,)."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TableIndex(TimestepMap):
    """The fractional index of sigma in a table, interpolated in the angle atan(sigma), hence finite at sigma = inf.

    Levels outside the table are told as its nearest end. `quantize` rounds to a whole index.
    """

    table: SigmaTable
    quantize: bool
    finite_at_inf: ClassVar[bool] = True

    def __post_init__(self):
        checks.instance("timesteps.table", self.table, SigmaTable)
        checks.flag("timesteps.quantize", self.quantize)

    def __call__(self, sigma: Tensor) -> Tensor:
        t = self.table.index(sigma)
        return t.round() if self.quantize else t


@dataclass(frozen=True, kw_only=True)
class LogSigma(TimestepMap):
    """scale * ln(sigma): EDM's c_noise with scale 1/4 (arXiv 2206.00364, Table 1). It has no value at 0 and inf."""

    scale: float
    finite_at_inf: ClassVar[bool] = False

    def __post_init__(self):
        checks.finite("timesteps.scale", self.scale, above=0)

    def __call__(self, sigma: Tensor) -> Tensor:
        return self.scale * sigma.double().log()


@dataclass(frozen=True, kw_only=True)
class FlowTime(TimestepMap):
    """scale * tau, tau = sigma / (1 + sigma): the straight path's time (arXiv 2403.03206, scale 1000)."""

    scale: float
    finite_at_inf: ClassVar[bool] = True

    def __post_init__(self):
        checks.finite("timesteps.scale", self.scale, above=0)

    def __call__(self, sigma: Tensor) -> Tensor:
        return self.scale / (1 + 1 / sigma.double())
