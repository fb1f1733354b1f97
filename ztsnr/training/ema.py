"""Moving averages of the weights, by torch's own AveragedModel."""

from collections.abc import Callable

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


def make_ema(network: nn.Module, decay: float) -> AveragedModel:
    """`update_parameters(network)` after every step. Early on the decay is lower, (1 + n) / (10 + n), so that the
    average forgets the random weights it began with (as in TensorFlow's ExponentialMovingAverage)."""
    return make_average(network, lambda updates: 1 - min(decay, (1 + updates) / (10 + updates)))


def make_average(network: nn.Module, weight_of: Callable[[int], float]) -> AveragedModel:
    """`weight_of` the newest weights, after so many updates. The average is held in float32 whatever they are:
    bfloat16 cannot express a change of 1 - decay."""

    def weight(updates) -> float:
        return weight_of(int(updates))

    @torch.no_grad()
    def average(averaged, current, updates):
        torch._foreach_lerp_(averaged, current, weight(updates))

    def average_one(averaged, current, updates):
        return averaged.lerp(current.to(averaged.dtype), weight(updates))

    if all(p.dtype == torch.float32 for p in network.parameters() if p.requires_grad):
        ema = AveragedModel(network, multi_avg_fn=average)
    else:
        ema = AveragedModel(network, avg_fn=average_one)
        for p in filter(lambda p: p.requires_grad, ema.module.parameters()):
            p.data = p.data.float()
    return ema.requires_grad_(False).eval()
