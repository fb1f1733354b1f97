"""Lists folders of captioned images, without opening any image."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ztsnr.caching.catalogue import ImageFile
from ztsnr.caching.decode import IMAGE_SUFFIXES
from ztsnr.caching.prepare import ImageSource
from ztsnr.caching.settings import PLAIN_FOLDER, FolderOptions
from ztsnr.caching.tables import TABLES, read_tables
from ztsnr.core.checks import key
from ztsnr.core.errors import ConfigError
from ztsnr.io.remote import is_remote

TEXT_SUFFIXES = (".txt", ".caption")
MASK = "-masklabel.png"
"""The mask of NAME.jpg is NAME-masklabel.png: OneTrainer's convention."""
CaptionsOfFiles = Mapping[str, tuple[str, ...]]
"""File name -> captions."""


@dataclass(frozen=True, kw_only=True)
class FolderImages(ImageSource):
    """`root`: a folder, a list of folders, or several separated by commas. `folders`: options for some of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for root in self.roots:
            if is_remote(root):
                remedy = f"Use data=webdataset {key('root')}='{root}/*.tar'."
                raise ConfigError(f"{key('root')}={root}: remote folders are not supported. {remedy}")

    def listing(self) -> Iterator[ImageFile]:
        for folder in self._folders:
            if not folder.is_dir():
                raise ConfigError(f"data.root={folder} is not a folder")
        return list_images(self._folders, self.folder_options)

    def identity(self) -> tuple:
        return tuple(str(folder.resolve()) for folder in self._folders), self.folders

    @property
    def _folders(self) -> list[Path]:
        return [Path(root).expanduser() for root in self.roots]


def list_images(roots: Sequence[Path], options: Sequence[FolderOptions]) -> Iterator[ImageFile]:
    """All images below the roots, sorted by name. Lists a folder once, even if links lead to it again."""
    entered: set[tuple[int, int]] = set()
    for root in roots:
        label = root.name if len(roots) > 1 else ""
        yield from _Walk(root, label, options, entered).images_in("", {})


@dataclass(frozen=True)
class _Walk:
    root: Path
    label: str
    """Prefix of the images' names."""
    options: Sequence[FolderOptions]
    entered: set[tuple[int, int]]
    """Device and inode of listed folders."""

    def images_in(self, folder: str, captions_above: CaptionsOfFiles) -> Iterator[ImageFile]:
        """`folder`: path below the root, "" for the root itself. `captions_above`: from tables in its parents."""
        path = self.root / folder
        try:
            if self._was_entered(path):
                return
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            name = os.path.join(self.label, folder, "")
            yield ImageFile(name, str(path), (), (), bad=f"it cannot be entered: {error.strerror}")
            return

        names = {entry.name for entry in entries}
        stems = {stem for stem, suffix in map(os.path.splitext, names) if suffix.lower() in IMAGE_SUFFIXES}
        captions = _captions_of_tables(path, names, captions_above)
        options = self._options_of(folder)

        for entry in entries:
            if _is_folder(entry):
                if not entry.name.startswith("."):  # as .git and .thumbnails
                    yield from self.images_in(os.path.join(folder, entry.name), _below(f"{entry.name}/", captions))
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                name = os.path.join(self.label, folder, entry.name)
                file = ImageFile(name, entry.path, (), (), options)
                if not entry.name.endswith(MASK):  # a mask belongs to its image
                    _add_captions(file, entry, names, captions)
                    _add_mask(file, path, entry.name, names)
                    yield file
                elif entry.name.removesuffix(MASK) not in stems:
                    file.bad = "its name is that of a mask, but there is no image that it belongs to"
                    yield file

    def _was_entered(self, path: Path) -> bool:
        """Whether a link leads to a folder that was already entered. Raises OSError."""
        status = path.stat()
        if (status.st_dev, status.st_ino) in self.entered:
            return True
        self.entered.add((status.st_dev, status.st_ino))
        return False

    def _options_of(self, folder: str) -> FolderOptions:
        """The options of the first pattern that matches the path below the root, or that path after the root's name."""
        paths = folder or ".", os.path.join(self.root.name, folder).rstrip(os.sep)
        for option in self.options:
            if any(fnmatch(path, option.path) for path in paths):
                return option
        return PLAIN_FOLDER


def _captions_of_tables(folder: Path, names: set[str], captions_above: CaptionsOfFiles) -> dict[str, tuple[str, ...]]:
    """Path below the folder -> captions, of its own tables before those of its parents."""
    tables = [name for name in names if name in TABLES or name.endswith(".parquet")]
    captions = read_tables(folder, tables) if tables else {}
    for name, more in captions_above.items():
        captions[name] = captions.get(name, ()) + more
    return captions


def _below(start: str, captions: CaptionsOfFiles) -> CaptionsOfFiles:
    return {name.removeprefix(start): texts for name, texts in captions.items() if name.startswith(start)}


def _add_captions(file: ImageFile, entry: os.DirEntry, names: set[str], tables: CaptionsOfFiles) -> None:
    """Sets the file's captions, and its identity in the file system."""
    stem = os.path.splitext(entry.name)[0]
    folder = Path(entry.path).parent
    try:
        file.identity = _identity(entry.stat())
        texts = [folder / f"{stem}{suffix}" for suffix in TEXT_SUFFIXES if f"{stem}{suffix}" in names]
        captions = tuple(path.read_bytes().decode("utf-8-sig").strip() for path in texts)
        file.captions = tuple(filter(None, (*captions, *tables.get(entry.name, ()))))
    except OSError as error:
        file.bad = f"it cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        file.bad = f"its caption is not in UTF-8: byte {error.object[error.start]:#x} at {error.start}"
    if not file.captions and file.folder.class_token:
        file.captions = (file.folder.class_token,)


def _add_mask(file: ImageFile, folder: Path, name: str, names: set[str]) -> None:
    mask_name = f"{os.path.splitext(name)[0]}{MASK}"
    if mask_name in names:
        path = folder / mask_name
        try:
            identity = _identity(path.stat())
        except OSError:  # reported when the mask is read, if the settings use it
            identity = ()
        file.mask = ImageFile(path.name, str(path), identity, ())


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that ends in itself is not a folder
        return False
