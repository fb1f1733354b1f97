"""Folders of captioned pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ztsnr.caching.listing import Found, find_pictures, folders_from
from ztsnr.core.errors import ConfigError
from ztsnr.data.cached import CachedImages
from ztsnr.io.remote import is_elsewhere


@dataclass(frozen=True, kw_only=True)
class FolderImages(CachedImages):
    """`root` is a folder, a list of them, or several between commas. `folders` says what is peculiar to some."""

    def listing(self) -> Iterator[Found]:
        for root in filter(is_elsewhere, self.roots):
            raise ConfigError(f"data.root={root} is read as tar shards alone: data=webdataset data.root='{root}/*.tar'")
        for folder in self._folders:
            if not folder.is_dir():
                raise ConfigError(f"data.root={folder} is not a folder")
        return find_pictures(self._folders, folders_from(self.folders))

    def identity(self) -> tuple:
        return tuple(str(folder.resolve()) for folder in self._folders), self.folders

    @property
    def _folders(self) -> list[Path]:
        return [Path(root).expanduser() for root in self.roots]
