"""Tar shards of captioned pictures, as webdataset writes them: members of one sample share their name up to a dot."""

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import groupby

from ztsnr.caching.decode import SUFFIXES
from ztsnr.caching.listing import MASK, PLAIN, TEXTS, Folder, Found, folders_from
from ztsnr.caching.tables import COLUMNS
from ztsnr.core.errors import ConfigError
from ztsnr.data.cached import CachedImages
from ztsnr.io.remote import matching, opened


@dataclass(frozen=True, kw_only=True)
class WebDataset(CachedImages):
    """`root` is a pattern of tar files, here or where fsspec reaches, or a list of them; `folders` match names."""

    def listing(self) -> Iterator[Found]:
        found = {place: identity for root in self.roots for place, identity in matching(root).items()}
        if not found:
            raise ConfigError(f"data.root={self.root} names no file. Give the tar files, such as 'shards/*.tar'.")
        folders = folders_from(self.folders)
        return (entry for place, identity in found.items() for entry in _members(place, identity, folders))

    def identity(self) -> tuple:
        return tuple(self.roots), self.folders


def _members(place: str, identity: tuple, folders: list[Folder]) -> Iterator[Found]:
    """A shard's pictures. One that is cut short is told, and gives those before the cut."""
    shard = place.rsplit("/", 1)[-1]
    folder = next((entry for entry in folders if fnmatch(shard, entry.path)), PLAIN)
    try:
        with opened(place) as file, tarfile.open(fileobj=file) as tar:
            for _, members in groupby((member for member in tar if member.isfile()), key=lambda m: _key(m.name)):
                yield from _sample(place, identity, folder, {_ending(member.name): member for member in members}, tar)
    except (OSError, tarfile.TarError) as error:
        yield Found(f"{shard}/", place, (), (), bad=f"it cannot be read as a tar: {error}")


def _sample(place: str, identity: tuple, folder: Folder, members: dict, tar: tarfile.TarFile) -> Iterator[Found]:
    for ending, member in members.items():
        if ending in SUFFIXES:
            found = _found(place, identity, folder, member)
            found.mask = _found(place, identity, folder, members[MASK]) if MASK in members else None
            try:
                found.captions = tuple(filter(None, _captions(members, tar)))
            except UnicodeDecodeError as error:
                found.bad = f"its caption is not in UTF-8: byte {error.object[error.start]:#x} at {error.start}"
            except (ValueError, TypeError) as error:
                found.bad = f"its caption cannot be read: {error}"
            if not found.captions and folder.class_token:
                found.captions = (folder.class_token,)
            yield found


def _found(place: str, identity: tuple, folder: Folder, member: tarfile.TarInfo) -> Found:
    lies = member.offset_data, member.size
    name = f"{place.rsplit('/', 1)[-1]}/{member.name}"
    return Found(name, place, (*identity, *lies), (), folder, start=lies[0], size=lies[1])


def _captions(members: dict, tar: tarfile.TarFile) -> Iterator[str]:
    for ending, member in members.items():
        if ending in (*TEXTS, ".json"):
            text = tar.extractfile(member).read().decode("utf-8-sig").strip()
            if ending != ".json":
                yield text
                continue
            row = json.loads(text)
            told = next((row[column] for column in COLUMNS if column in row), [])
            yield from told if isinstance(told, list) else [told]


def _key(name: str) -> str:
    folder, base = os.path.split(name)
    return os.path.join(folder, base.removesuffix(MASK).split(".", 1)[0])


def _ending(name: str) -> str:
    return MASK if name.endswith(MASK) else "." + os.path.basename(name).partition(".")[2].lower()
