"""Samples a grid of images from a checkpoint: python -m ztsnr.sample checkpoint=runs/.../final.safetensors

Of classes it needs only the checkpoint, of prompts also the pretrained model that was trained on.
"""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ztsnr.config.command import command
from ztsnr.config.registry import build
from ztsnr.core.errors import ConfigError

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")


@command("sample")
def main(composed: DictConfig) -> None:
    from ztsnr.evaluation.from_checkpoint import checkpoint_sampling
    from ztsnr.evaluation.samples import tile_images

    output = Path(str(composed.output))
    if not output.parent.is_dir() or output.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"output must be a .png, .webp or .jpg file in an existing folder, got {composed.output!r}")
    options = OmegaConf.to_container(composed, resolve=True)
    sampling = checkpoint_sampling(composed.checkpoint, build(composed, "sampler"), options)
    tile_images(sampling.sample(), sampling.columns).save(output)
    print(output)


if __name__ == "__main__":
    main()
