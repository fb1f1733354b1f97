"""The timestep that the network receives for a noise level: a property of the network, not of the noise."""

from dataclasses import dataclass
from typing import ClassVar

from ztsnr.core.checks import Part, Positive
from ztsnr.core.schedule.table import SigmaTable
from ztsnr.core.shapes import PerSample


class TimestepMap(Part):
    finite_at_inf: ClassVar[bool]

    def __call__(self, sigma: PerSample) -> PerSample:
        """The network's timesteps t at these levels."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TableIndex(TimestepMap):
    """The fractional index of sigma in a table, interpolated in the angle atan(sigma), hence finite at sigma = inf.

    Levels outside the table get the index of its nearest end. `quantize` rounds to a whole index.
    """

    table: SigmaTable
    quantize: bool
    finite_at_inf: ClassVar[bool] = True

    def __call__(self, sigma: PerSample) -> PerSample:
        t = self.table.index(sigma)
        return t.round() if self.quantize else t


@dataclass(frozen=True, kw_only=True)
class LogSigma(TimestepMap):
    """scale * ln(sigma): EDM's c_noise with scale 1/4 (arXiv 2206.00364, Table 1). It has no value at 0 and inf."""

    scale: Positive
    finite_at_inf: ClassVar[bool] = False

    def __call__(self, sigma: PerSample) -> PerSample:
        return self.scale * sigma.double().log()


@dataclass(frozen=True, kw_only=True)
class FlowTime(TimestepMap):
    """scale * tau, tau = sigma / (1 + sigma): the straight path's time (arXiv 2403.03206, scale 1000)."""

    scale: Positive
    finite_at_inf: ClassVar[bool] = True

    def __call__(self, sigma: PerSample) -> PerSample:
        return self.scale / (1 + 1 / sigma.double())
