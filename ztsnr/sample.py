"""Samples a grid of images from a checkpoint: python -m ztsnr.sample checkpoint=runs/.../final.safetensors

For classes it needs only the checkpoint, for prompts also the pretrained model that training started from.
"""

import sys
from types import ModuleType
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from ztsnr.config.command import command
from ztsnr.config.outputs import output_file
from ztsnr.config.registry import build


@command("sample", positional="checkpoint", text_keys=("checkpoint", "output", "file", "negative", "pretrained"))
def main(composed: DictConfig) -> None:
    from ztsnr.evaluation.from_checkpoint import sample_grid

    output = output_file(composed.output, (".png", ".webp", ".jpg", ".jpeg"))
    options = cast("dict[str, Any]", OmegaConf.to_container(composed, resolve=True))
    sample_grid(composed.checkpoint, build(composed, "sampler"), options).save(output)
    print(output)


class CallableModule(ModuleType):
    """Importing this module hides the function `ztsnr.sample`, so calling the module calls that function."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from ztsnr.evaluation.from_checkpoint import sample

        return sample(*arguments, **options)


if __name__ == "__main__":
    main()
else:
    sys.modules[__name__].__class__ = CallableModule
