"""Folders of captioned pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ztsnr.data.cached import CachedImages
from ztsnr.data.listing import Found, find_pictures, folders_from
from ztsnr.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FolderImages(CachedImages):
    """`root` is a folder, a list of them, or several between commas. `folders` says what is peculiar to some."""

    root: str | list[str]
    folders: list[dict]

    def __post_init__(self):
        super().__post_init__()
        folders_from(self.folders)
        if not self.roots:
            raise ConfigError(f"data.root must be a folder or a list of folders, got {self.root!r}")

    @property
    def roots(self) -> list[Path]:
        given = self.root.split(",") if isinstance(self.root, str) else self.root
        return [Path(root.strip()).expanduser() for root in given if root.strip()]

    def listing(self) -> Iterator[Found]:
        for root in self.roots:
            if not root.is_dir():
                raise ConfigError(f"data.root={root} is not a folder")
        return find_pictures(self.roots, folders_from(self.folders))

    def identity(self) -> tuple:
        return tuple(str(root.resolve()) for root in self.roots), self.folders
