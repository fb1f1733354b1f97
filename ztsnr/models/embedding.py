"""Embeddings of timesteps and classes."""

import math

import torch
from torch import Tensor, nn


def sinusoids(t: Tensor, size: int, max_period: float = 10_000) -> Tensor:
    """(B,) -> (B, size): sines and cosines at geometric frequencies from 1 to 1 / max_period (arXiv 1706.03762)."""
    half = torch.arange(size // 2, device=t.device, dtype=torch.float32)
    angle = t.float()[:, None] * torch.exp(-math.log(max_period) * half / (size // 2))
    return torch.cat([angle.cos(), angle.sin()], 1)


class Conditioning(nn.Module):
    """t (B,), label (B,) -> (B, width). The label `classes` is the null label.

    Names of submodules are part of the checkpoint format: never rename them.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.frequencies = width // 2
        self.of_t = nn.Sequential(nn.Linear(self.frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.of_label = nn.Embedding(classes + 1, width)

    def forward(self, t: Tensor, label: Tensor) -> Tensor:
        return nn.functional.silu(self.of_t(sinusoids(t, self.frequencies)) + self.of_label(label))
