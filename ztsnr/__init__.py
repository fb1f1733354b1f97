"""Diffusion training with zero terminal SNR: schedules, targets, weightings and optimizers, and their comparison.

    result = ztsnr.fit("schedule=ztsnr", "loss=vpred", "trainer.steps=300")
    objective, network, facts = ztsnr.load("runs/.../final.safetensors")
    ztsnr.sample("runs/.../final.safetensors", classes=[3, 1, 4]).save("digits.png")
    ztsnr.options("weighting")
    ztsnr.make("weighting", "min_snr", gamma=3.0)
    ztsnr.build(ztsnr.compose("schedule=sdxl", "loss=eps"), "objective")

Each function's module is imported at its first use: `ztsnr.core` needs only torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ztsnr.checkpoints.load import load_model as load
    from ztsnr.config.registry import build, compose, make, options
    from ztsnr.evaluation.from_checkpoint import sample
    from ztsnr.training.fit import fit

__version__ = "0.1.0"
__all__ = ["build", "compose", "fit", "load", "make", "options", "sample"]

MODULES = {
    "build": "ztsnr.config.registry:build",
    "compose": "ztsnr.config.registry:compose",
    "fit": "ztsnr.training.fit:fit",
    "load": "ztsnr.checkpoints.load:load_model",
    "make": "ztsnr.config.registry:make",
    "options": "ztsnr.config.registry:options",
    "sample": "ztsnr.evaluation.from_checkpoint:sample",
}
"""Where each public function is, which is imported at its first use."""


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module 'ztsnr' has no attribute {name!r}")
    module, _, function = MODULES[name].partition(":")
    return getattr(import_module(module), function)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
