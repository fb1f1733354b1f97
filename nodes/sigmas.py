"""The nodes that choose the levels to sample at."""

from torch import Tensor

from ztsnr.core import checks
from ztsnr.core.errors import ConfigError
from ztsnr.core.schedule.combined import Truncated
from ztsnr.core.schedule.density import Laplace
from ztsnr.core.schedule.grid import Grid, KarrasGrid, Quantiles, SigmaList, WithTerminalStep

from .api import io, number, steps_input
from .tables import CEILING

LADDER = (17.8, 12.4, 9.2, 7.2, 5.4, 3.9, 2.1, 0.9, 0.0292)
"""Below the terminal level; conf/schedule/grid/progressive.yaml has the same."""

KARRAS = "karras from the terminal level"
PROGRESSIVE = "progressive ladder"
OWN = "the checkpoint's own"


def _sigmas(grid: Grid, steps: int, factor: float = 1.0) -> Tensor:
    """(steps + 1,) float32; all levels but the first are multiplied by the factor."""
    checks.integer("steps", steps, at_least=1)
    sigmas = grid.sigmas(steps)
    sigmas[1:] *= factor
    sigmas = sigmas.float()
    if not (sigmas.diff() < 0).all():
        raise ConfigError(f"steps={steps} would visit a level twice in float32. Use fewer, or a lower u_max.")
    return sigmas


def _with_terminal_step(grid: Grid, terminal: float, name: str, factor: float = 1.0) -> Grid:
    if terminal <= factor * grid.start:
        raise ConfigError(f"{name} must exceed {factor * grid.start:.6g}, the level after it, got {terminal:.6g}")
    return WithTerminalStep(grid=grid, terminal=terminal)


class LaplaceScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ZTSNRLaplaceScheduler",
            display_name="Laplace Scheduler (ZTSNR)",
            category="sampling",
            description=(
                "Quantiles of the Laplace density of Hang et al. (arXiv 2407.03297), in logSNR = -2 ln sigma as "
                "published, from u_max down in equal steps, then 0. ComfyUI's own LaplaceScheduler is Laplace in "
                "ln sigma: its mu is -mu/2 and its beta b/2 of these."
            ),
            inputs=[
                steps_input(20),
                number("mu", 0.0, -20.0, 20.0, 0.01, "Mean of the logSNR: exp(-mu / 2) is the middle level."),
                number(
                    "b",
                    0.5,
                    0.01,
                    10.0,
                    0.01,
                    (
                        "Scale of the logSNR: 0.5 for 256 pixels and 0.75 for 512 as published. The quantile of u is "
                        "sigma = exp(-mu / 2 - b / 2 sign(u - 1/2) ln(1 - 2 |u - 1/2|))."
                    ),
                ),
                number(
                    "sigma_max",
                    CEILING,
                    0.01,
                    CEILING,
                    0.01,
                    "The terminal level, and the highest of the density: what lies above it is cut off.",
                ),
                number(
                    "u_max",
                    0.99,
                    0.01,
                    1.0,
                    0.001,
                    "Level i of n below the terminal one is the quantile of u_max (1 - i / n), i = 0, 1, ...: 0.99 as "
                    "published. 1 begins at sigma_max.",
                ),
                io.Boolean.Input(
                    "terminal_step",
                    default=True,
                    tooltip="On: the first step leaves from sigma_max. Off: from the first quantile.",
                ),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, steps, mu, b, sigma_max, u_max, terminal_step):
        checks.finite("sigma_max", sigma_max, above=0, at_most=CEILING)
        checks.finite("u_max", u_max, above=0, at_most=1)
        density = Truncated(density=Laplace(mu=mu, b=b), sigma_min=0.0, sigma_max=sigma_max)
        grid = Quantiles(density=density, u_max=u_max)
        if terminal_step:
            grid = _with_terminal_step(grid, sigma_max, "sigma_max")
        return io.NodeOutput(_sigmas(grid, steps))


class Sigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ZTSNRSigmas",
            display_name="ZTSNR Sigmas",
            category="sampling",
            description=(
                "Levels for a model with zero terminal SNR: one step from the model's highest level, then a grid that "
                "would start lower. For the sampler of SamplerCustom."
            ),
            inputs=[
                io.Model.Input("model"),
                steps_input(28),
                io.Combo.Input(
                    "grid",
                    options=[KARRAS, PROGRESSIVE, OWN],
                    default=KARRAS,
                    tooltip=(
                        "karras: sigma^(1/rho) falls in equal steps from start^(1/rho) to that of the model's lowest "
                        "level. "
                        f"progressive: {', '.join(map(str, LADDER))} below the terminal level. "
                        "the checkpoint's own: what it was exported with, read by ZTSNR V-Prediction. "
                        "The last two are interpolated in ln sigma for any other number of steps. All but the terminal "
                        "level move with the resolution, where ZTSNR V-Prediction has a latent."
                    ),
                ),
                number("start", 17.8, 0.01, CEILING, 0.1, "The level after the terminal one, of karras."),
                number("rho", 7.0, 0.1, 100.0, 0.1, "Of karras: the higher, the more of the levels are low."),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, model, steps, grid, start, rho):
        checks.one_of("grid", grid, (KARRAS, PROGRESSIVE, OWN))
        sampling = model.get_model_object("model_sampling")
        factor = getattr(sampling, "factor", 1.0)
        if grid == OWN:
            return io.NodeOutput(_sigmas(own_grid(sampling), steps, factor))
        if grid == KARRAS:
            lowest = float(sampling.sigma_min) / factor
            checks.ascending("the model's lowest level", lowest, "start", start)
            below = KarrasGrid(sigma_min=lowest, sigma_max=start, rho=rho)
        else:
            below = SigmaList(sigma_list=LADDER)
        full_grid = _with_terminal_step(below, float(sampling.sigma_max), "the highest level of the model", factor)
        return io.NodeOutput(_sigmas(full_grid, steps, factor))


def own_grid(sampling) -> Grid:
    """The sampling grid that a model carries. Raises ConfigError for a model without one."""
    grid = getattr(sampling, "grid", None)
    if grid is None:
        raise ConfigError(
            "model carries no sampling grid of its own. Choose its file as the checkpoint of ZTSNR V-Prediction, "
            "or a different grid."
        )
    return grid
