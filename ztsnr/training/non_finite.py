"""Where training left the finite numbers, in words."""

from torch import Tensor, nn

from ztsnr.core.objective import Objective


def describe_non_finite(losses: Tensor, objective: Objective, u: Tensor, network: nn.Module) -> str:
    """Of a step whose losses (B,) at u (B,), or whose gradient, are not finite."""
    sigma = objective.schedule.density.sigma(u)
    is_bad = ~losses.isfinite()
    if is_bad.any():
        levels = ", ".join(f"{level:.4g}" for level in sigma[is_bad][:8].tolist())
        return f"the loss of {int(is_bad.sum())} of {len(losses)} samples is not finite, at sigma {levels}"

    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    names = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    where = f"{len(names)} tensors, first {names[0]}" if names else "only its norm"
    return f"the losses are finite and the gradient is not, in {where}; sigma {sigma.min():.4g} to {sigma.max():.4g}"
