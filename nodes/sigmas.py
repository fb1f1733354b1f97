"""The nodes that say at which levels to sample."""

from ztsnr import check
from ztsnr.errors import ConfigError
from ztsnr.schedule.combined import Truncated
from ztsnr.schedule.density import Laplace
from ztsnr.schedule.grid import Explicit, FromTerminal, Grid, Karras, Quantiles

from .api import io, number
from .model_sampling import CEILING, TableSampling

LADDER = (17.8, 12.4, 9.2, 7.2, 5.4, 3.9, 2.1, 0.9, 0.0292)
"""Below the terminal level; conf/schedule/grid/progressive.yaml has the same."""

KARRAS, PROGRESSIVE, OWN = "karras from the terminal level", "progressive ladder", "the checkpoint's own"


def _sigmas(grid: Grid, steps: int):
    check.integer("steps", steps, at_least=1)
    sigmas = grid.sigmas(steps).float()
    if not (sigmas.diff() < 0).all():
        raise ConfigError(f"steps={steps} would visit a level twice in float32. Use fewer, or a lower u_max.")
    return sigmas


def _entered(grid: Grid, terminal: float, name: str) -> Grid:
    if terminal <= grid.start:
        raise ConfigError(f"{name} must exceed {grid.start:.6g}, the level after it, got {terminal:.6g}")
    return FromTerminal(grid=grid, terminal=terminal)


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
                io.Int.Input("steps", default=20, min=1, max=1000),
                number("mu", 0.0, -20.0, 20.0, 0.01, "Mean of the logSNR."),
                number(
                    "b", 0.5, 0.01, 10.0, 0.01, "Scale of the logSNR: 0.5 for 256 pixels and 0.75 for 512 as published."
                ),
                number(
                    "sigma_max",
                    CEILING,
                    0.01,
                    CEILING,
                    0.01,
                    "The terminal level, and the highest that a quantile may have.",
                ),
                number(
                    "u_max",
                    0.99,
                    0.01,
                    1.0,
                    0.001,
                    "Where the quantiles begin: 0.99 as published. 1 begins at sigma_max.",
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
        check.finite("sigma_max", sigma_max, above=0, at_most=CEILING)
        check.finite("u_max", u_max, above=0, at_most=1)
        density = Truncated(density=Laplace(mu=mu, b=b), sigma_min=0.0, sigma_max=sigma_max)
        grid = Quantiles(density=density, u_max=u_max)
        return io.NodeOutput(_sigmas(_entered(grid, sigma_max, "sigma_max") if terminal_step else grid, steps))


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
                io.Int.Input("steps", default=28, min=1, max=1000),
                io.Combo.Input(
                    "grid",
                    options=[KARRAS, PROGRESSIVE, OWN],
                    default=KARRAS,
                    tooltip=(
                        "karras: equal steps in sigma^(1/rho) from start to the model's lowest level. "
                        "progressive: ten levels 17.8, 12.4, ... below the terminal one. "
                        "the checkpoint's own: what it was exported with, read by ZTSNR V-Prediction. "
                        "The last two are interpolated in ln sigma for another number of steps."
                    ),
                ),
                number("start", 17.8, 0.01, CEILING, 0.1, "Where karras begins after the terminal level."),
                number("rho", 7.0, 0.1, 100.0, 0.1, "The rho of karras."),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, model, steps, grid, start, rho):
        sampling = model.get_model_object("model_sampling")
        check.one_of("grid", grid, (KARRAS, PROGRESSIVE, OWN))
        if grid == OWN:
            return io.NodeOutput(_sigmas(own_grid(sampling), steps))
        lowest, terminal = float(sampling.sigma_min), float(sampling.sigma_max)
        if grid == KARRAS:
            check.ascending("the model's lowest level", lowest, "start", start)
            below = Karras(sigma_min=lowest, sigma_max=start, rho=rho)
        else:
            below = Explicit(sigma_list=LADDER)
        return io.NodeOutput(_sigmas(_entered(below, terminal, "the highest level of the model"), steps))


def own_grid(sampling) -> Grid:
    """The checkpoint's list, entered from its first level; refuses a model without one."""
    if not isinstance(sampling, TableSampling) or sampling.grid is None:
        raise ConfigError(
            "model carries no sampling grid of its own. Choose its file as the checkpoint of ZTSNR V-Prediction, "
            "or another grid."
        )
    first, *rest = (min(level, CEILING) for level in sampling.grid[:-1])
    if not rest:
        return Explicit(sigma_list=(first,))
    return FromTerminal(grid=Explicit(sigma_list=tuple(rest)), terminal=first)
