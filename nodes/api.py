"""ComfyUI's V3 node API, or its stand-in for ComfyUIs that lack it."""

from .classic import classic_mappings

try:
    from comfy_api.latest import ComfyExtension, io  # pyright: ignore[reportMissingImports]
except ImportError:
    from . import classic as io

    ComfyExtension = object

V3 = ComfyExtension is not object


def number(id: str, default: float, low: float, high: float, step: float, tooltip: str):
    """A float input from low to high. ComfyUI's page rounds what is typed to the step; its server takes any value."""
    return io.Float.Input(id, default=default, min=low, max=high, step=step, round=False, tooltip=tooltip)


def steps_input(default: int):
    told = "Evaluations of the model, with guidance counted once. The levels are one more, 0 at their end."
    return io.Int.Input("steps", default=default, min=1, max=1000, tooltip=told)


__all__ = ["V3", "ComfyExtension", "classic_mappings", "io", "number", "steps_input"]
