"""Encodes a state as named tensors and JSON, without pickles, and decodes it to the bit.

A tree holds None, bools, numbers, texts, lists, and objects: {"dict": {...}}, {"tuple": [...]}, {"dtype": "float32"}
and {"tensor": NAME, "order": [...]}, whose optional order says how the tensor's dimensions are laid out in memory.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ztsnr.core.errors import CheckpointError

TORCH_DTYPES = {
    str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)
}
JSON_TYPES = (bool, int, float, str, type(None))


def pack(value: object, name: str) -> tuple[object, dict[str, Tensor]]:
    """The tree of a value, and its tensors, which are contiguous views where possible.

    name: the prefix of the tensors' names. Raises CheckpointError for a value of any other type.
    """
    tensors: dict[str, Tensor] = {}

    def walk(value: object, name: str) -> object:
        if type(value) in JSON_TYPES:
            return value
        if isinstance(value, Tensor) and name not in tensors:
            tensors[name], order = _in_memory_order(value.detach())
            return {"tensor": name, "order": order} if order else {"tensor": name}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, list | tuple) and type(value) in (list, tuple):  # but no named tuple
            entries = [walk(entry, f"{name}.{i}") for i, entry in enumerate(value)]
            return {"tuple": entries} if isinstance(value, tuple) else entries
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {"dict": {key: walk(entry, f"{name}.{key}") for key, entry in value.items()}}
        raise CheckpointError(f"{name} cannot be saved: it is a {type(value).__name__}, {value!r:.80}")

    return walk(value, name), tensors


def unpack(tree: object, tensors: Mapping[str, Tensor]) -> object:
    """The value that was packed. Raises CheckpointError for a tree that pack does not produce."""
    if type(tree) in JSON_TYPES:
        return tree
    if isinstance(tree, list):
        return [unpack(entry, tensors) for entry in tree]
    try:
        match tree:
            case {"dict": dict(entries)}:
                return {key: unpack(entry, tensors) for key, entry in entries.items()}
            case {"tuple": list(entries)}:
                return tuple(unpack(entry, tensors) for entry in entries)
            case {"dtype": str(name)} if name in TORCH_DTYPES:
                return TORCH_DTYPES[name]
            case {"tensor": name, "order": list(order)}:
                inverse = [order.index(dim) for dim in range(tensors[name].ndim)]
                return tensors[name].permute(inverse)
            case {"tensor": name}:
                return tensors[name]
    except (KeyError, TypeError, RuntimeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"broken tensor in the saved state: {error}") from error
    raise CheckpointError(f"unexpected value in the saved state: {tree!r:.80}")


def _in_memory_order(tensor: Tensor) -> tuple[Tensor, list[int] | None]:
    """A contiguous view, and the order of dimensions that yields it; None: the tensor's own order.

    The order is kept because sums over other strides may round differently.
    """
    if tensor.is_contiguous():
        return tensor, None
    order = sorted(range(tensor.ndim), key=lambda dim: -tensor.stride(dim))
    permuted = tensor.permute(order)
    return (permuted, order) if permuted.is_contiguous() else (tensor.contiguous(), None)
