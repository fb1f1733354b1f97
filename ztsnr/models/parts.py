"""The networks that a pretrained model consists of: their types and the names of their tensors."""

import torch
from torch import Tensor, nn

TEXT_MODEL = "text_model."
"""A prefix that only some versions of transformers put before the names of a text encoder's tensors."""


def to_dtype(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Converts its parameters in place; diffusers' own way warns of layers that no model here has."""
    for p in network.parameters():
        p.data = p.data.to(dtype)
    return network


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """Its tensors, a text encoder's by the names that all versions of transformers agree on."""
    return {name.removeprefix(TEXT_MODEL): value for name, value in network.state_dict().items()}
