"""Lists tar shards of captioned images in webdataset's format: members of a sample share the name before the dot."""

import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import groupby

from ztsnr.caching.catalogue import ImageFile
from ztsnr.caching.decode import IMAGE_SUFFIXES
from ztsnr.caching.folder import MASK, TEXT_SUFFIXES
from ztsnr.caching.prepare import ImageSource
from ztsnr.caching.settings import PLAIN_FOLDER, FolderOptions
from ztsnr.caching.tables import CAPTION_COLUMNS
from ztsnr.core.errors import ConfigError
from ztsnr.io.remote import matching_files, open_file

Members = Mapping[str, tarfile.TarInfo]
"""The members of a sample by their endings: .png, .txt, -masklabel.png."""


@dataclass(frozen=True, kw_only=True)
class WebDataset(ImageSource):
    """`root`: a pattern of tar files, local or remote, or a list of patterns. `folders`: options by file name."""

    def listing(self) -> Iterator[ImageFile]:
        shards: dict[str, tuple] = {}
        for root in self.roots:
            shards |= matching_files(root)
        if not shards:
            raise ConfigError(f"data.root={self.root} matches no file. Give the tar files, such as 'shards/*.tar'.")
        return _images(shards, self.folder_options)

    def identity(self) -> tuple:
        return tuple(self.roots), self.folders


def _images(shards: Mapping[str, tuple], options: Sequence[FolderOptions]) -> Iterator[ImageFile]:
    for path, identity in shards.items():
        name = _shard_name(path)
        folder = next((option for option in options if fnmatch(name, option.path)), PLAIN_FOLDER)
        yield from _images_of_shard(path, identity, folder)


def _images_of_shard(path: str, identity: tuple, folder: FolderOptions) -> Iterator[ImageFile]:
    """Yields the images of a shard. A truncated shard yields those before the cut, then a bad file."""
    try:
        with open_file(path) as file, tarfile.open(fileobj=file) as tar:
            members = (member for member in tar if member.isfile())
            for _, group in groupby(members, key=lambda member: _sample_name(member.name)):
                sample = {_ending(member.name): member for member in group}
                yield from _images_of_sample(path, identity, folder, sample, tar)
    except (OSError, tarfile.TarError) as error:
        yield ImageFile(f"{_shard_name(path)}/", path, (), (), bad=f"it cannot be read as a tar: {error}")


def _images_of_sample(
    path: str, identity: tuple, folder: FolderOptions, sample: Members, tar: tarfile.TarFile
) -> Iterator[ImageFile]:
    for ending, member in sample.items():
        if ending not in IMAGE_SUFFIXES:
            continue
        file = _image_file(path, identity, folder, member)
        if MASK in sample:
            file.mask = _image_file(path, identity, folder, sample[MASK])
        try:
            file.captions = tuple(filter(None, _captions(sample, tar)))
        except UnicodeDecodeError as error:
            file.bad = f"its caption is not in UTF-8: byte {error.object[error.start]:#x} at {error.start}"
        except (ValueError, TypeError) as error:
            file.bad = f"its caption cannot be read: {error}"
        if not file.captions and folder.class_token:
            file.captions = (folder.class_token,)
        yield file


def _image_file(path: str, identity: tuple, folder: FolderOptions, member: tarfile.TarInfo) -> ImageFile:
    name = f"{_shard_name(path)}/{member.name}"
    start, size = member.offset_data, member.size
    return ImageFile(name, path, (*identity, start, size), (), folder, start=start, size=size)


def _captions(sample: Members, tar: tarfile.TarFile) -> Iterator[str]:
    for ending, member in sample.items():
        if ending not in (*TEXT_SUFFIXES, ".json"):
            continue
        file = tar.extractfile(member)
        assert file is not None  # only regular files are members of a sample
        text = file.read().decode("utf-8-sig").strip()
        if ending != ".json":
            yield text
            continue
        row = json.loads(text)
        captions = next((row[column] for column in CAPTION_COLUMNS if column in row), [])
        yield from captions if isinstance(captions, list) else [captions]


def _shard_name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _sample_name(member: str) -> str:
    folder, base = os.path.split(member)
    return os.path.join(folder, base.removesuffix(MASK).split(".", 1)[0])


def _ending(name: str) -> str:
    return MASK if name.endswith(MASK) else "." + os.path.basename(name).partition(".")[2].lower()
