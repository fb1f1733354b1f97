"""Samples a grid of images from a checkpoint: python -m ztsnr.sample checkpoint=runs/.../final.safetensors

Of classes it needs only the checkpoint, of prompts also the pretrained model that was trained on.
"""

from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from ztsnr.config.command import command
from ztsnr.config.outputs import output_file
from ztsnr.config.registry import build


@command("sample", text_keys=("checkpoint", "output", "file", "negative", "pretrained"))
def main(composed: DictConfig) -> None:
    from ztsnr.evaluation.from_checkpoint import checkpoint_sampling
    from ztsnr.evaluation.samples import tile_images

    output = output_file(composed.output, (".png", ".webp", ".jpg", ".jpeg"))
    options = cast("dict[str, Any]", OmegaConf.to_container(composed, resolve=True))
    sampling = checkpoint_sampling(composed.checkpoint, build(composed, "sampler"), options)
    tile_images(sampling.sample(), sampling.columns).save(output)
    print(output)


if __name__ == "__main__":
    main()
