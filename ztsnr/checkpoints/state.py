"""States of a run as named tensors and JSON, without pickles: written and read back to the bit.

A tree holds None, bools, numbers, texts, lists, and objects: {"dict": {...}}, {"tuple": [...]}, {"dtype": "float32"}
and {"tensor": NAME, "order": [...]}, whose order, where there is one, says how its dimensions lie in memory.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ztsnr.core.errors import CheckpointError

DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
PLAIN = (bool, int, float, str, type(None))


def pack(value, name: str) -> tuple[object, dict[str, Tensor]]:
    """The tree of a value and its tensors, contiguous views where that can be; `name` begins their names."""
    tensors: dict[str, Tensor] = {}

    def walk(value, name: str):
        if type(value) in PLAIN:
            return value
        if isinstance(value, Tensor) and name not in tensors:
            tensors[name], order = _in_memory_order(value.detach())
            return {"tensor": name} | ({"order": order} if order else {})
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if type(value) in (list, tuple):
            entries = [walk(entry, f"{name}.{i}") for i, entry in enumerate(value)]
            return {"tuple": entries} if isinstance(value, tuple) else entries
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {"dict": {key: walk(entry, f"{name}.{key}") for key, entry in value.items()}}
        raise CheckpointError(f"{name} cannot be saved: it is a {type(value).__name__}, {value!r:.80}")

    return walk(value, name), tensors


def unpack(tree, tensors: Mapping[str, Tensor]):
    """The value that was packed. Raises CheckpointError for a tree that pack does not make."""
    if type(tree) in PLAIN:
        return tree
    if isinstance(tree, list):
        return [unpack(entry, tensors) for entry in tree]
    try:
        match tree:
            case {"dict": dict(entries)}:
                return {key: unpack(entry, tensors) for key, entry in entries.items()}
            case {"tuple": list(entries)}:
                return tuple(unpack(entry, tensors) for entry in entries)
            case {"dtype": str(name)} if name in DTYPES:
                return DTYPES[name]
            case {"tensor": name, "order": list(order)}:
                inverse = [order.index(dim) for dim in range(tensors[name].ndim)]
                return tensors[name].permute(inverse)
            case {"tensor": name}:
                return tensors[name]
    except (KeyError, TypeError, RuntimeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"a broken tensor in it: {error}") from error
    raise CheckpointError(f"what is no part of a state in it: {tree!r:.80}")


def _in_memory_order(tensor: Tensor) -> tuple[Tensor, list[int] | None]:
    """The order of dimensions by which a dense tensor is contiguous: other strides could be summed otherwise."""
    if tensor.is_contiguous():
        return tensor, None
    order = sorted(range(tensor.ndim), key=lambda dim: -tensor.stride(dim))
    permuted = tensor.permute(order)
    return (permuted, order) if permuted.is_contiguous() else (tensor.contiguous(), None)


def trained_state(network: nn.Module, average: nn.Module | None = None) -> dict[str, Tensor]:
    """What training changes: the state, of the network or of an average of it, without its frozen parameters."""
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    return {name: value for name, value in (average or network).state_dict().items() if name not in frozen}


@torch.no_grad()
def restore(live: Mapping[str, Tensor], saved, what: str) -> None:
    """Copies `saved` into `live`; every tensor must be there and fit."""
    if not isinstance(saved, dict) or live.keys() != saved.keys():
        other = sorted(live.keys() ^ (saved.keys() if isinstance(saved, dict) else set()))
        raise CheckpointError(f"its {what} is another: {', '.join(other[:4])}, {len(other)} in all")
    for name, tensor in live.items():
        found = saved[name]
        if not isinstance(found, Tensor) or (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
            told = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)
            raise CheckpointError(
                f"its {what} does not fit: {name} is {told}, not {tensor.dtype} {tuple(tensor.shape)}"
            )
        tensor.copy_(found)


def settings_of(optimizer: Optimizer) -> list[dict]:
    """Each group without its parameters."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def optimizer_state(optimizer: Optimizer, begun: list[dict]) -> dict:
    """What any optimizer holds of its groups and parameters; `begun` is settings_of it when it was made.

    Not its own state_dict, since torch's load_state_dict casts states to their parameter's type.
    """
    states = [dict(optimizer.state.get(p, {})) for group in optimizer.param_groups for p in group["params"]]
    return {"class": type(optimizer).__name__, "begun": begun, "groups": settings_of(optimizer), "states": states}


def restore_optimizer(optimizer: Optimizer, saved) -> None:
    """A setting that the run's config gives another value than it had then keeps the new one."""
    try:
        name, begun, groups, states = (saved[key] for key in ("class", "begun", "groups", "states"))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if name != type(optimizer).__name__:
            raise CheckpointError(f"it holds the state of {name}, not of {type(optimizer).__name__}")
        sizes = (len(groups), len(begun), len(states))
        if sizes != (len(optimizer.param_groups), len(optimizer.param_groups), len(parameters)):
            raise CheckpointError("its optimizer has other groups of parameters")
        for group, then, last in zip(optimizer.param_groups, begun, groups, strict=True):
            group |= {key: value for key, value in last.items() if not _changed(group.get(key), then.get(key))}
        fused = [_counts_on_device(group) for group in optimizer.param_groups for _ in group["params"]]
        for p, state, counts in zip(parameters, states, fused, strict=True):
            if state:
                optimizer.state[p] = {key: _beside(value, p, counts) for key, value in state.items()}
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"its optimizer's state is broken: {error!r}") from error


def _changed(now, then) -> bool:
    return not isinstance(now, Tensor) and not isinstance(then, Tensor) and now != then


def _counts_on_device(group: dict) -> bool:
    return group.get("fused") is True or group.get("capturable") is True


def _beside(value, p: Tensor, counts: bool):
    """On the parameter's device; a count, which is a tensor without dimensions, only where `counts` is true."""
    if isinstance(value, Tensor):
        return value.to(p.device if value.ndim or counts else value.device, copy=True)  # of torch's own alignment
    if type(value) in (list, tuple):
        return type(value)(_beside(entry, p, counts) for entry in value)
    return {key: _beside(entry, p, counts) for key, entry in value.items()} if isinstance(value, dict) else value
