"""Encodes images and captions once for all trainings: python -m ztsnr.cache model=sdxl data=folder data.root=..."""

from omegaconf import DictConfig

from ztsnr.config.command import command
from ztsnr.config.registry import build
from ztsnr.core.errors import ConfigError


@command("cache")
def main(composed: DictConfig) -> None:
    from ztsnr.caching.prepare import ImageSource

    data = build(composed, "data")
    if not isinstance(data, ImageSource):
        raise ConfigError(f"{type(data).__name__} has nothing to cache. Choose data=folder data.root=FOLDER.")
    data.prepare()
    print(data.train.facts["report"])
    print(data.index_path)


if __name__ == "__main__":
    main()
