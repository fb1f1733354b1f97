"""A residual multilayer perceptron."""

import math

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ztsnr.core import checks
from ztsnr.models.embedding import Conditioning


class Block(nn.Module):
    """A residual layer with scale, shift and gate from the condition; it starts as the identity (arXiv 2212.09748)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 3 * width)
        self.inner = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """h, condition (B, width) -> (B, width)."""
        scale, shift, gate = self.modulate(condition).chunk(3, 1)
        return h + gate * self.inner(self.norm(h) * (1 + scale) + shift)


class MLP(nn.Module):
    """A residual multilayer perceptron over all pixels, the fastest network for images of 8 x 8.

    Names of submodules are part of the checkpoint format: never rename them.
    """

    def __init__(self, *, shape: list[int], classes: int, width: int, depth: int, gradient_checkpointing: bool) -> None:
        checks.integer("width", width, at_least=4)
        checks.integer("depth", depth, at_least=1)
        checks.flag("gradient_checkpointing", gradient_checkpointing)
        super().__init__()
        pixels = math.prod(shape)
        self.condition = Conditioning(width, classes)
        self.enter = nn.Linear(pixels, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, pixels))
        self.gradient_checkpointing = gradient_checkpointing

    def forward(self, z: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """z (B, C, H, W), t (B,), label (B,) -> (B, C, H, W)."""
        condition = self.condition(t, label)
        h = self.enter(z.flatten(1))
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                h = checkpoint(block, h, condition, use_reentrant=False)
            else:
                h = block(h, condition)
        return self.leave(h).reshape(z.shape)
