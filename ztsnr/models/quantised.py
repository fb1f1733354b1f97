"""A frozen base in 8 or 4 bits, for a LoRA (LLM.int8, arXiv 2208.07339; QLoRA's NF4, arXiv 2305.14314)."""

import logging
from typing import Any

import torch
from torch import nn

BITS = ("8bit", "4bit")


def quantise(network: nn.Module, base: str) -> None:
    """Replaces the linear layers of transformer blocks, which hold most weights, by bitsandbytes' layers.

    Moving the network to a device rounds their weights. They compute in bfloat16.
    """
    for name, parent in list(network.named_modules()):
        in_transformer_block = {"attentions", "layers"} & set(name.split("."))
        for child, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and in_transformer_block:
                setattr(parent, child, _quantised(layer, base))
    setattr(network, f"is_loaded_in_{base}", True)  # peft reads it


def quantised_layers(network: nn.Module) -> list[nn.Module]:
    """Layers with state outside their parameters. A copy must share the complete layer."""
    return [layer for layer in network.modules() if type(layer).__module__.startswith("bitsandbytes.")]


def _quantised(layer: nn.Linear, base: str) -> nn.Linear:
    from bitsandbytes.nn.modules import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # it warns of a cast in each layer
    sizes = layer.in_features, layer.out_features, layer.bias is not None
    if base == "8bit":
        quantised = Linear8bitLt(*sizes, has_fp16_weights=False)
        settings: dict[str, Any] = {"requires_grad": False, "has_fp16_weights": False}
        quantised.weight = Int8Params(layer.weight.data, **settings)
    else:
        quantised = Linear4bit(*sizes, compute_dtype=torch.bfloat16, quant_type="nf4")
        # On a CPU with AVX512-BF16, the first call in eval mode would repack the weights irreversibly, and would fail
        # if a row is not a multiple of 64.
        quantised.support_avx512bf16_for_cpu = False
        settings = {"requires_grad": False, "quant_type": "nf4"}
        quantised.weight = Params4bit(layer.weight.data, **settings)
    quantised.bias = layer.bias
    return quantised
