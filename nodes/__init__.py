"""ComfyUI nodes for models with zero terminal SNR. Link or copy this folder into ComfyUI/custom_nodes.

They need ztsnr's torch-only core: in a folder ztsnr/ in this one, or beside it (or its link's target), or installed
with `pip install --no-deps`. ComfyUIs with the V3 API call `comfy_entrypoint`; older ones read NODE_CLASS_MAPPINGS.
"""

import importlib.util
import logging
import sys
from pathlib import Path

from .api import V3, ComfyExtension, classic_mappings
from .missing import missing_core

HERE = Path(__file__).resolve().parent


def find_core(folder: Path) -> Path | None:
    """The ztsnr package in the nodes' folder or beside it; its core/ is enough."""
    for package in (folder / "ztsnr", folder.parent / "ztsnr"):
        if (package / "core" / "noise.py").is_file():
            return package
    return None


def _use_core() -> None:
    """Imports the core that this folder came with, without adding its parent to sys.path."""
    package = find_core(HERE)
    if "ztsnr" in sys.modules or package is None:
        return
    spec = importlib.util.spec_from_file_location("ztsnr", package / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["ztsnr"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["ztsnr"])


def _nodes() -> list[type]:
    _use_core()
    try:
        import ztsnr.core.sampling  # noqa: F401
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "ztsnr":
            raise
        node, message = missing_core(HERE)
        logging.error(message)
        return [node]
    from .cfg_rescale import CFGRescale
    from .sampler import Sampler
    from .sigmas import LaplaceScheduler, Sigmas
    from .v_prediction import VPrediction

    return [VPrediction, CFGRescale, LaplaceScheduler, Sigmas, Sampler]


NODES = _nodes()

if V3:

    class Extension(ComfyExtension):
        async def get_node_list(self) -> list[type]:
            return NODES

    async def comfy_entrypoint() -> ComfyExtension:
        return Extension()

else:
    NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS = classic_mappings(NODES)
