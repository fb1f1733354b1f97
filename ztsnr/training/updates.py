"""How gradients change weights: all once the backward pass is over, or each parameter as soon as its own is there."""

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

EVERY_LOW_BIT = 1 << 16
"""Of the 32 bits of a float32, bfloat16 keeps the upper 16."""


class OneByOne:
    """An optimizer's step of one parameter at a time, for optimizers whose parameters know nothing of each other.

    What an update changes of the parameter's group, such as a count of steps, holds from `finish` on.
    `stochastic`: a bfloat16 parameter is float32 while it is updated, as are its states, and is rounded at random.
    """

    def __init__(self, optimizer: Optimizer, stochastic: bool):
        self.optimizer, self.stochastic = optimizer, stochastic
        self.groups = {p: group for group in optimizer.param_groups for p in group["params"]}
        self.advanced: dict[int, tuple[dict, dict]] = {}

    def step(self) -> None:
        """Updates all that have a gradient."""
        for p in [p for p in self.groups if p.grad is not None]:
            self.update(p)
        self.finish()

    def update(self, p: nn.Parameter) -> None:
        """Uses up the gradient."""
        group = self.groups[p]
        own, groups = group | {"params": [p]}, self.optimizer.param_groups
        self.optimizer.param_groups = [own]
        rounds = self.stochastic and p.dtype == torch.bfloat16
        try:
            if rounds:
                gradient, p.grad = p.grad.float(), None
                p.data = p.data.float()
                p.grad = gradient
            self.optimizer.step()
        finally:
            self.optimizer.param_groups, p.grad = groups, None
            if rounds:
                p.data = round_at_random(p.data)
        self.advanced[id(group)] = group, own

    def finish(self) -> None:
        """Once all parameters that have a gradient are updated."""
        for group, own in self.advanced.values():
            group |= own | {"params": group["params"]}
        self.advanced.clear()


class AfterBackward:
    """All gradients are held until the last is there, so that their common norm can be limited to `clip`."""

    def __init__(self, stepper: AcceleratedOptimizer | OneByOne, trained: list[nn.Parameter], clip: float | None):
        self.stepper, self.trained, self.clip = stepper, trained, clip

    def norm(self) -> Tensor:
        """Of the network's gradient, before it is limited."""
        return get_total_norm([p.grad for p in self.trained if p.grad is not None])

    def apply(self, norm: Tensor) -> None:
        if self.clip is not None:
            clip_grads_with_norm_(self.trained, self.clip, norm)
        self.stepper.step()

    def end(self) -> None:
        pass


class InBackward:
    """A parameter is updated while the backward pass goes on, so that no two gradients are in memory (LOMO's idea,
    arXiv 2306.09782, with any optimizer). When their norm is known it is too late to limit it."""

    def __init__(self, one_by_one: OneByOne, trained: list[nn.Parameter]):
        self.one_by_one, self.trained, self.norms = one_by_one, set(trained), []
        self.hooks = [p.register_post_accumulate_grad_hook(self._update) for p in one_by_one.groups]

    def norm(self) -> Tensor:
        """Of the gradient of the pass that is over."""
        norms, self.norms = self.norms, []
        return torch.linalg.vector_norm(torch.stack(norms))

    def apply(self, norm: Tensor) -> None:
        self.one_by_one.finish()

    def end(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def _update(self, p: nn.Parameter) -> None:
        if p in self.trained:
            self.norms.append(torch.linalg.vector_norm(p.grad, dtype=torch.float32))
        self.one_by_one.update(p)


def round_at_random(x: Tensor) -> Tensor:
    """float32 -> bfloat16, up or down, each with the probability that makes the mean x (arXiv 2010.06192)."""
    bits = x.view(torch.int32)
    below = torch.randint_like(bits, EVERY_LOW_BIT)
    return ((bits + below) & -EVERY_LOW_BIT).view(torch.float32).bfloat16()
