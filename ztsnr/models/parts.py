"""The networks of a pretrained model: conversion of their types and tensor names."""

import torch
from torch import Tensor, nn

TEXT_MODEL = "text_model."
"""Prefix of a text encoder's tensor names in some versions of transformers."""


def to_dtype(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Converts its parameters in place; diffusers' own way warns of layers that no model here has."""
    for p in network.parameters():
        p.data = p.data.to(dtype)
    return network


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors, under names that do not depend on the version of transformers."""
    return {name.removeprefix(TEXT_MODEL): value for name, value in network.state_dict().items()}
