"""ComfyUI's V3 node API, or its stand-in for ComfyUIs that lack it."""

from .classic import classic_mappings

try:
    from comfy_api.latest import ComfyExtension, io
except ImportError:
    from . import classic as io

    ComfyExtension = object

V3 = ComfyExtension is not object

__all__ = ["V3", "ComfyExtension", "classic_mappings", "io"]
