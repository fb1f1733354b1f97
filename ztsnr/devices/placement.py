"""Where a network's parameters are."""

import torch
from torch import nn


def device_of(network: nn.Module) -> torch.device:
    """The device of its first parameter; raises StopIteration for a network without parameters."""
    return next(network.parameters()).device
