"""Tries an optimizer before the model is built: a few steps on tensors of 64 and 8 elements."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ztsnr.core.errors import ConfigError
from ztsnr.devices.processes import compute_device
from ztsnr.training.optim import (
    MakeOptimizer,
    ParamGroups,
    describe_optimizer,
    explain_refusal,
    make_optimizer,
    optimizer_name,
    set_training,
)
from ztsnr.training.updates import PerParameterOptimizer

MakePerParameter = Callable[[Optimizer], PerParameterOptimizer]
STEPS = 32


def try_optimizer(
    make: MakeOptimizer, *, param_dtype: str, rounding: str, in_backward: bool, groups: ParamGroups | None = None
) -> None:
    """Raises ConfigError for an optimizer that does not fit the trainer's settings of these names.

    It must not diverge. With bfloat16 parameters its small updates must take effect, by compensation of the rounding
    error or by stochastic rounding: for a parameter 1024 times larger than the largest step, each step is below half of
    the spacing of bfloat16 (2^-8 to 2^-7). Updating parameters one at a time must give the same result as together.
    """
    device = compute_device()
    dtype = getattr(torch, param_dtype)
    zeros = [torch.zeros(8, 8, device=device, dtype=dtype), torch.zeros(8, device=device, dtype=dtype)]
    per_parameter = partial(PerParameterOptimizer, stochastic=rounding == "stochastic")
    is_bfloat16 = param_dtype == "bfloat16"
    is_per_parameter = in_backward or rounding == "stochastic"

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        paths = _walk(make, zeros, STEPS if is_bfloat16 else 3)
        if not all(path.isfinite().all() for path in paths):
            raise ConfigError(f"{describe_optimizer(make)} diverges: its first steps are not finite")
        if is_per_parameter:
            starts = zeros if rounding == "nearest" else [zero.float() for zero in zeros]
            _refuse_dependent_updates(make, starts, per_parameter)
        if is_bfloat16:
            _refuse_lost_updates(make, paths, per_parameter if is_per_parameter else None)
        if groups and groups.lr:
            _refuse_ignored_rates(make, zeros, groups)


def _refuse_dependent_updates(make: MakeOptimizer, starts: list[Tensor], per_parameter: MakePerParameter) -> None:
    together = _walk(make, starts, STEPS)
    one_by_one = _walk(make, starts, STEPS, per_parameter=per_parameter)
    if not all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(together, one_by_one, strict=True)):
        raise ConfigError(
            f"trainer.optimizer_in_backward=true and trainer.rounding=stochastic update each parameter separately, "
            f"but the updates of {optimizer_name(make)} depend on each other. Use a different optimizer, such as "
            f"adamw8bit."
        )


def _refuse_lost_updates(make: MakeOptimizer, paths: list[Tensor], per_parameter: MakePerParameter | None) -> None:
    """paths: walks that start at 0, where rounding loses no step."""
    starts = []
    for path in paths:
        largest_step = path.diff(dim=0).abs().max().item()
        starts.append(torch.full_like(path[0], 1024 * largest_step, dtype=torch.bfloat16))
    far_paths = _walk(make, starts, STEPS, per_parameter=per_parameter)
    share = min(_length(far) / _length(near) for far, near in zip(far_paths, paths, strict=True))
    if not share > 0.5:
        raise ConfigError(
            f"trainer.param_dtype=bfloat16 rounds away small updates of {optimizer_name(make)}: {share:.0%} take "
            f"effect. Use trainer.rounding=stochastic, optimizer=adamw_kahan, optimizer=adamw_flash or "
            f"trainer.param_dtype=float32."
        )


def _refuse_ignored_rates(make: MakeOptimizer, zeros: list[Tensor], groups: ParamGroups) -> None:
    _, path = _walk(make, zeros, 3, lr=[["1", 0.0]])
    if _length(path) > 0:
        raise ConfigError(
            f"trainer.groups.lr={groups.lr} has no effect on {optimizer_name(make)}, which has one rate for all. "
            f"Use a different optimizer or trainer.groups.lr=[]."
        )


def _walk(
    make: MakeOptimizer,
    starts: list[Tensor],
    steps: int,
    lr: Iterable = (),
    per_parameter: MakePerParameter | None = None,
) -> list[Tensor]:
    """The path of each start (...) under gradients of constant direction: (steps + 1, ...) float32."""
    network = nn.ParameterList(nn.Parameter(start.clone()) for start in starts)
    optimizer = make_optimizer(make, network, ParamGroups(no_decay=[], adamw=["vectors"], lr=list(lr)))
    paths = [[start.float()] for start in starts]
    hint = "" if torch.cuda.is_available() else ". If it needs CUDA, which is not available, use optimizer=adamw"
    with explain_refusal(make, hint):
        set_training(True, optimizer)
        stepper = per_parameter(optimizer) if per_parameter else optimizer
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
