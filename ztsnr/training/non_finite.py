"""Describes the losses and gradients that stopped training because they are not finite."""

from torch import Tensor, nn

from ztsnr.core.errors import NonFinite
from ztsnr.core.objective import Objective


def describe_non_finite(losses: Tensor, objective: Objective, u: Tensor, network: nn.Module) -> str:
    """For a step whose losses (B,), at the noise levels of u (B,), or whose gradients are not finite."""
    sigma = objective.schedule.density.sigma(u)
    is_bad = ~losses.isfinite()
    if is_bad.any():
        levels = ", ".join(f"{level:.4g}" for level in sigma[is_bad][:8].tolist())
        return f"the loss of {int(is_bad.sum())} of {len(losses)} samples is not finite, at sigma {levels}"

    names = []
    for name, p in network.named_parameters():
        if p.grad is not None and not p.grad.isfinite().all():
            names.append(name)
    where = f"{len(names)} tensors, first {names[0]}" if names else "only its norm"
    return f"the losses are finite and the gradient is not, in {where}; sigma {sigma.min():.4g} to {sigma.max():.4g}"


def non_finite_error(step: int, was_updated: bool, description: str) -> NonFinite:
    """step: counted from 0. was_updated: whether the weights have changed already."""
    when = "after the weights were updated" if was_updated else "before its update"
    return NonFinite(
        f"Training stopped in step {step + 1} {when}: {description}. "
        f"Lower optimizer.lr or trainer.max_grad_norm, lengthen lr_schedule.warmup, "
        f"or use trainer.mixed_precision=no."
    )
