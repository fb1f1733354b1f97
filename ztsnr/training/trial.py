"""Refusal of what no run could use before there is a model, by an optimizer's steps on tensors of 64 and 8 elements."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.optim import Optimizer

from ztsnr.core.errors import ConfigError
from ztsnr.training.optim import (
    MakeOptimizer,
    ParamGroups,
    make_optimizer,
    name_of,
    refusing,
    set_training,
    settings_in,
)
from ztsnr.training.updates import OneByOne

MakeOneByOne = Callable[[Optimizer], OneByOne]
STEPS = 32


def try_optimizer(
    make: MakeOptimizer, *, weights: str, rounding: str, in_backward: bool, groups: ParamGroups | None = None
) -> None:
    """As the trainer's settings of these names have it. Raises ConfigError.

    Weights in bfloat16 need an optimizer that carries what rounding takes, or rounding at random: from a parameter of
    1024 times the largest step, each step is below half of the spacing of bfloat16 (2^-8 to 2^-7), and must still
    arrive. Parameters that are updated one by one must go where they go together.
    """
    device, dtype = PartialState().device, getattr(torch, weights)
    zeros = [torch.zeros(8, 8, device=device, dtype=dtype), torch.zeros(8, device=device, dtype=dtype)]
    singly = partial(OneByOne, stochastic=rounding == "stochastic")
    low, one_by_one = weights == "bfloat16", in_backward or rounding == "stochastic"
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        free = _walk(make, zeros, STEPS if low else 3)
        if not all(path.isfinite().all() for path in free):
            raise ConfigError(f"{settings_in(make)} is refused: its steps leave the finite numbers")
        if one_by_one:
            _refuse_dependent(make, zeros if rounding == "nearest" else [zero.float() for zero in zeros], singly)
        if low:
            sizes = [path.diff(dim=0).abs().max() for path in free]
            starts = [torch.full_like(zero, 1024 * size) for zero, size in zip(zeros, sizes, strict=True)]
            heavy = _walk(make, starts, STEPS, singly=singly if one_by_one else None)
            arrived = min(_length(there) / _length(wanted) for there, wanted in zip(heavy, free, strict=True))
            if not arrived > 0.5:
                raise ConfigError(
                    f"trainer.param_dtype=bfloat16 loses the small steps of {name_of(make)}: {arrived:.0%} arrive. Use "
                    f"trainer.rounding=stochastic, optimizer=adamw_kahan, optimizer=adamw_flash or "
                    f"trainer.param_dtype=float32."
                )
        if groups and groups.lr and _length(_walk(make, zeros, 3, lr=[["1", 0.0]])[1]) > 0:
            raise ConfigError(
                f"trainer.groups.lr={groups.lr} has no effect on {name_of(make)}, which has one rate for all. "
                f"Use another optimizer or trainer.groups.lr=[]."
            )


def _refuse_dependent(make: MakeOptimizer, zeros: list[Tensor], singly: MakeOneByOne) -> None:
    together, alone = _walk(make, zeros, STEPS), _walk(make, zeros, STEPS, singly=singly)
    if not all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(together, alone, strict=True)):
        raise ConfigError(
            f"trainer.optimizer_in_backward=true and trainer.rounding=stochastic update each parameter by itself, and "
            f"what {name_of(make)} does to one depends on the others. Use another optimizer, such as adamw8bit."
        )


def _walk(
    make: MakeOptimizer, starts: list[Tensor], steps: int, lr: Iterable = (), singly: MakeOneByOne | None = None
) -> list[Tensor]:
    """For each start (...), the (steps + 1, ...) places it goes against a gradient of one direction, in float32."""
    network = nn.ParameterList(nn.Parameter(start.clone()) for start in starts)
    optimizer = make_optimizer(make, network, ParamGroups(no_decay=[], adamw=["vectors"], lr=list(lr)))
    paths = [[start.float()] for start in starts]
    hint = "" if torch.cuda.is_available() else ". If it needs CUDA, which is not here, use optimizer=adamw"
    with refusing(make, hint):
        set_training(True, optimizer)
        stepper = singly(optimizer) if singly else optimizer
        for step in range(steps):
            for p in network:
                sizes = torch.linspace(0.5, 1.5, p.numel(), device=p.device) * (1 + step % 3)
                p.grad = sizes.view_as(p).to(p.dtype)
            stepper.step()
            for p, path in zip(network, paths, strict=True):
                path.append(p.detach().float().clone())
    return [torch.stack(path) for path in paths]


def _length(path: Tensor) -> float:
    return (path[-1] - path[0]).abs().mean().item()
