"""The state of networks and optimizers, and its restoration."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ztsnr.core.errors import CheckpointError

OPTIMIZER_NAMES = {
    ("bitsandbytes", "AdamW8bit"): "AdamW8bit",
    ("bitsandbytes", "Lion8bit"): "Lion8bit",
    ("bitsandbytes", "PagedAdamW8bit"): "PagedAdamW8bit",
    ("bitsandbytes", "PagedLion8bit"): "PagedLion8bit",
    ("pytorch_optimizer", "AdaFactor"): "AdaFactor",
    ("pytorch_optimizer", "Adan"): "Adan",
    ("pytorch_optimizer", "CAME"): "CAME",
    ("pytorch_optimizer", "FlashAdamW"): "FlashAdamW",
    ("pytorch_optimizer", "Lion"): "Lion",
    ("pytorch_optimizer", "Muon"): "Muon",
    ("pytorch_optimizer", "Prodigy"): "Prodigy",
    ("pytorch_optimizer", "ROSE"): "ROSE",
    ("pytorch_optimizer", "SOAP"): "SOAP",
    ("pytorch_optimizer", "ScheduleFreeAdamW"): "ScheduleFreeAdamW",
    ("pytorch_optimizer", "StableAdamW"): "StableAdamW",
    ("torch", "AdamW"): "AdamW",
}
"""(package, class) of every optimizer in conf/ -> its name in a state's file, which stays if the library renames it."""


def name_in_file(optimizer: Optimizer) -> str:
    """Its name in OPTIMIZER_NAMES. A plug-in's name is its import path: a moved plug-in cannot read its old states."""
    kind = type(optimizer)
    package = kind.__module__.partition(".")[0]
    return OPTIMIZER_NAMES.get((package, kind.__name__), f"{kind.__module__}.{kind.__qualname__}")


def trained_state(network: nn.Module, average: nn.Module | None = None) -> dict[str, Tensor]:
    """What training changes: the state dict of the network, or of its average, without frozen parameters."""
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    state = (average or network).state_dict()
    return {name: value for name, value in state.items() if name not in frozen}


@torch.no_grad()
def restore(live: Mapping[str, Tensor], saved: object, what: str) -> None:
    """Copies `saved` into `live`. Raises CheckpointError where a tensor is missing, unexpected or does not fit."""
    saved_names = saved.keys() if isinstance(saved, dict) else set()
    if not isinstance(saved, dict) or live.keys() != saved_names:
        names = sorted(live.keys() ^ saved_names)
        raise CheckpointError(f"its {what} does not match: {len(names)} tensors differ, first {', '.join(names[:4])}")
    for name, tensor in live.items():
        value = saved[name]
        if not isinstance(value, Tensor) or value.shape != tensor.shape or value.dtype != tensor.dtype:
            raise CheckpointError(f"its {what} does not fit: {name} is {_describe(value)}, not {_describe(tensor)}")
        tensor.copy_(value)


def _describe(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def settings_of(optimizer: Optimizer) -> list[dict]:
    """Each parameter group without its parameters."""
    settings = []
    for group in optimizer.param_groups:
        settings.append({key: value for key, value in group.items() if key != "params"})
    return settings


def optimizer_state(optimizer: Optimizer, initial_settings: list[dict]) -> dict:
    """The settings of an optimizer's groups and the states of its parameters.

    initial_settings: settings_of(optimizer) when it was new. This is not the optimizer's own state_dict, since torch's
    load_state_dict casts states to the type of their parameter.
    """
    states = [dict(optimizer.state.get(p, {})) for p in _parameters(optimizer)]
    return {
        "class": name_in_file(optimizer),
        "begun": initial_settings,
        "groups": settings_of(optimizer),
        "states": states,
    }


def restore_optimizer(optimizer: Optimizer, saved: Any) -> None:
    """Restores what optimizer_state returned. Raises CheckpointError if it does not fit.

    Group settings that steps have changed come from the state; those that the config has changed keep their new value.
    """
    try:
        groups = saved["groups"]
        initial_groups = saved["begun"]
        states = saved["states"]
        _check_fit(optimizer, saved["class"], groups, initial_groups, states)

        # settings: only those that the config has not changed
        for group, initial, last in zip(optimizer.param_groups, initial_groups, groups, strict=True):
            for key, value in last.items():
                if not _differs(group.get(key), initial.get(key)):
                    group[key] = value

        # states: on the device of their parameter
        remaining_states = iter(states)
        for group in optimizer.param_groups:
            for p in group["params"]:
                if state := next(remaining_states):
                    optimizer.state[p] = _place_beside(dict(state), p, _counts_on_device(group))
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"its optimizer's state is broken: {error!r}") from error


def _check_fit(optimizer: Optimizer, name: str, groups: list, initial_groups: list, states: list) -> None:
    own_name = name_in_file(optimizer)
    is_plugin = "." in own_name
    if name != own_name and not (is_plugin and name == type(optimizer).__name__):  # 0de1f9a wrote a plug-in's class
        raise CheckpointError(f"it holds the state of {name}, not of {own_name}")
    count = len(optimizer.param_groups)
    if (len(groups), len(initial_groups), len(states)) != (count, count, len(_parameters(optimizer))):
        raise CheckpointError("its optimizer has different parameter groups")


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    parameters = []
    for group in optimizer.param_groups:
        parameters += group["params"]
    return parameters


def _differs(now: object, before: object) -> bool:
    """Whether two settings differ. Tensors count as equal, since a step may have created them."""
    return not isinstance(now, Tensor) and not isinstance(before, Tensor) and now != before


def _counts_on_device(group: dict) -> bool:
    return group.get("fused") is True or group.get("capturable") is True


def _place_beside(value: Any, p: Tensor, counts_on_device: bool) -> Any:
    """A copy of a state on the device of `p`. Counts, which are 0-d tensors, move only if `counts_on_device`."""
    if isinstance(value, Tensor):
        device = p.device if value.ndim or counts_on_device else value.device
        return value.to(device, copy=True)  # with torch's own alignment
    if type(value) in (list, tuple):
        return type(value)(_place_beside(entry, p, counts_on_device) for entry in value)
    if isinstance(value, dict):
        return {key: _place_beside(entry, p, counts_on_device) for key, entry in value.items()}
    return value
