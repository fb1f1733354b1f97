"""Updates of the weights: all after the backward pass, or each parameter during it, when its gradient is complete."""

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

BF16_ULP = 1 << 16
"""bfloat16 keeps the upper 16 bits of a float32, so as integers two neighbours are this far apart."""


class PerParameterOptimizer:
    """Steps an optimizer one parameter at a time, if it updates each parameter only by the parameter's own gradient.

    Changes that an update makes to the parameter's group, such as a count of steps, take effect in `finish`.
    stochastic: converts a bfloat16 parameter to float32 for its update, so that its states are float32 too, and then
    rounds it stochastically.
    """

    def __init__(self, optimizer: Optimizer, stochastic: bool) -> None:
        self.optimizer = optimizer
        self.stochastic = stochastic
        self.groups: dict[nn.Parameter, dict] = {}
        for group in optimizer.param_groups:
            self.groups |= dict.fromkeys(group["params"], group)
        self._updated_groups: dict[int, tuple[dict, dict]] = {}

    def step(self) -> None:
        """Updates all parameters that have a gradient."""
        for p in self.groups:
            if p.grad is not None:
                self.update(p)
        self.finish()

    def update(self, p: nn.Parameter) -> None:
        """Updates one parameter and frees its gradient."""
        group = self.groups[p]
        own_group = group | {"params": [p]}
        all_groups = self.optimizer.param_groups
        self.optimizer.param_groups = [own_group]
        rounds = self.stochastic and p.dtype == torch.bfloat16
        try:
            if rounds and p.grad is not None:
                gradient = p.grad.float()
                p.grad = None  # a gradient must have its parameter's type at all times
                p.data = p.data.float()
                p.grad = gradient
            self.optimizer.step()
        finally:
            self.optimizer.param_groups = all_groups
            p.grad = None
            if rounds:
                p.data = stochastic_round(p.data)
        self._updated_groups[id(group)] = group, own_group

    def finish(self) -> None:
        """To be called after the last parameter of a step."""
        for group, updated in self._updated_groups.values():
            group |= updated | {"params": group["params"]}
        self._updated_groups.clear()


class StepAfterBackward:
    """Keeps all gradients until the backward pass ends, so that max_grad_norm can limit their common norm."""

    def __init__(
        self,
        stepper: AcceleratedOptimizer | PerParameterOptimizer,
        trainable: list[nn.Parameter],
        max_grad_norm: float | None,
    ) -> None:
        self.stepper = stepper
        self.trainable = trainable
        self.max_grad_norm = max_grad_norm

    def norm(self) -> Tensor:
        """The norm of the network's gradient before clipping; ()."""
        return get_total_norm([p.grad for p in self.trainable if p.grad is not None])

    def apply(self, norm: Tensor) -> None:
        """norm: what `norm` returned."""
        if self.max_grad_norm is not None:
            clip_grads_with_norm_(self.trainable, self.max_grad_norm, norm)
        self.stepper.step()

    def end(self) -> None:
        """After the last step."""


class StepInBackward:
    """Updates each parameter during the backward pass, so that memory holds one gradient at a time.

    This is LOMO's idea (arXiv 2306.09782) with any optimizer. The norm of all gradients is known too late to limit it.
    """

    def __init__(self, optimizer: PerParameterOptimizer, trainable: list[nn.Parameter]) -> None:
        self.optimizer = optimizer
        self._trainable = set(trainable)
        self._norms: list[Tensor] = []
        self._hooks = [p.register_post_accumulate_grad_hook(self._update) for p in optimizer.groups]

    def norm(self) -> Tensor:
        """The norm of the network's gradient in the last backward pass; ()."""
        norm = torch.linalg.vector_norm(torch.stack(self._norms))
        self._norms = []
        return norm

    def apply(self, norm: Tensor) -> None:
        self.optimizer.finish()

    def end(self) -> None:
        """After the last step."""
        for hook in self._hooks:
            hook.remove()

    def _update(self, p: nn.Parameter) -> None:
        if p in self._trainable and p.grad is not None:
            self._norms.append(torch.linalg.vector_norm(p.grad, dtype=torch.float32))
        self.optimizer.update(p)


def stochastic_round(x: Tensor) -> Tensor:
    """float32 -> bfloat16: rounds up or down at random, so that the mean is x (arXiv 2010.06192)."""
    bits = x.view(torch.int32)
    below_ulp = torch.randint_like(bits, BF16_ULP)
    return ((bits + below_ulp) & -BF16_ULP).view(torch.float32).bfloat16()
