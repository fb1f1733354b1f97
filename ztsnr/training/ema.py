"""An exponential moving average of the weights, by torch's own AveragedModel."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


def make_ema(network: nn.Module, decay: float) -> AveragedModel:
    """`update_parameters(network)` after every step. Early on the decay is lower, (1 + n) / (10 + n), so that the
    average forgets the random weights it began with (as in TensorFlow's ExponentialMovingAverage)."""

    @torch.no_grad()
    def average(averaged, current, updates):
        n = int(updates)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    ema = AveragedModel(network, multi_avg_fn=average)
    return ema.requires_grad_(False).eval()
