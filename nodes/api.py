"""ComfyUI's V3 node API, or its stand-in for ComfyUIs that lack it."""

from contextlib import suppress
from typing import TYPE_CHECKING

from . import classic
from .classic import classic_mappings

io = classic
ComfyExtension = object
if not TYPE_CHECKING:  # the type checker knows the stand-in, which has the same interface
    with suppress(ImportError):
        from comfy_api.latest import ComfyExtension, io

V3 = ComfyExtension is not object


def number(id: str, default: float, low: float, high: float, step: float, tooltip: str) -> classic.Port:
    """A float input from low to high. ComfyUI's page rounds what is typed to the step; its server takes any value."""
    return io.Float.Input(id, default=default, min=low, max=high, step=step, round=False, tooltip=tooltip)


def steps_input(default: int) -> classic.Port:
    tooltip = "Evaluations of the model, with guidance counted once. There is one more level, the last of them 0."
    return io.Int.Input("steps", default=default, min=1, max=1000, tooltip=tooltip)


__all__ = ["V3", "ComfyExtension", "classic_mappings", "io", "number", "steps_input"]
