"""A frozen base in 8 or 4 bits, for a LoRA (LLM.int8, arXiv 2208.07339; QLoRA's NF4, arXiv 2305.14314)."""

import logging

import torch
from torch import nn

BITS = ("8bit", "4bit")


def quantise(network: nn.Module, base: str) -> None:
    """Makes bitsandbytes' layers of the linear ones in transformer blocks, where most weights are.

    Their numbers are rounded when the network is moved to a device. Later layers compute in bfloat16.
    """
    for name, parent in list(network.named_modules()):
        for child, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and {"attentions", "layers"} & set(name.split(".")):
                setattr(parent, child, _quantised(layer, base))
    setattr(network, f"is_loaded_in_{base}", True)  # as peft asks


def shared_whole(network: nn.Module) -> list[nn.Module]:
    """Layers whose numbers are not in their parameters alone, so that no copy of them may share just these."""
    return [layer for layer in network.modules() if type(layer).__module__.startswith("bitsandbytes.")]


def _quantised(layer: nn.Linear, base: str) -> nn.Linear:
    import bitsandbytes as bnb

    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # tells of casts, layer by layer
    sizes = layer.in_features, layer.out_features, layer.bias is not None
    if base == "8bit":
        made = bnb.nn.Linear8bitLt(*sizes, has_fp16_weights=False)
        made.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    else:
        made = bnb.nn.Linear4bit(*sizes, compute_dtype=torch.bfloat16, quant_type="nf4")
        made.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
    made.bias = layer.bias
    return made
