"""Finds pictures and their captions in folders; opens no picture."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from ztsnr.caching.decode import SUFFIXES
from ztsnr.caching.tables import TABLES, read_tables
from ztsnr.core import checks
from ztsnr.core.errors import BadPicture, ConfigError
from ztsnr.io.remote import read_part

TEXTS = (".txt", ".caption")
MASK = "-masklabel.png"
"""The mask of NAME.jpg is NAME-masklabel.png: OneTrainer's convention."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """How the pictures of some folders are trained: where the pattern matches the path below the root or with its name.

    With `class_token` they are regularisation: that is the caption of those which have none, and no trigger is added.
    """

    path: str
    repeats: int
    weight: float
    trigger: str
    class_token: str | None

    def __post_init__(self):
        checks.instance("data.folders.path", self.path, str)
        checks.integer("data.folders.repeats", self.repeats, at_least=1)
        checks.finite("data.folders.weight", self.weight, above=0)
        checks.instance("data.folders.trigger", self.trigger, str)
        if self.class_token is not None:
            checks.instance("data.folders.class_token", self.class_token, str)
            if self.trigger:
                raise ConfigError(f"data.folders: {self.path!r} cannot have both a trigger and a class_token")


PLAIN = Folder(path="*", repeats=1, weight=1.0, trigger="", class_token=None)


def folders_from(settings: list[Mapping]) -> list[Folder]:
    """The config's entries, each with a path and what differs from a plain folder. Raises ConfigError."""
    names = list(PLAIN.__dataclass_fields__)
    for entry in settings:
        if not isinstance(entry, Mapping) or "path" not in entry or set(entry) - set(names):
            raise ConfigError(f"data.folders must be a list of entries with path and any of {names[1:]}, got {entry!r}")
    return [Folder(**{name: entry.get(name, getattr(PLAIN, name)) for name in names}) for entry in settings]


@dataclass(slots=True)
class Found:
    """A picture on the disk. `bad` says why it cannot be used, where the listing alone shows that."""

    name: str
    path: str
    identity: tuple[int, ...]
    """What changes with the file: inode, size, times."""
    captions: tuple[str, ...]
    folder: Folder = field(default=PLAIN, repr=False)
    bad: str = ""
    start: int = 0
    """Where in the file it begins, and how long it is; -1 to its end."""
    size: int = -1
    mask: "Found | None" = None
    """A file beside it: black where nothing of it is to be trained, white where all is."""

    @property
    def place(self) -> str:
        """One of its own."""
        return f"{self.path}#{self.start}" if self.start else self.path

    def mask_file(self, masks: str) -> "Found | None":
        """What its mask is read from, of these `masks`."""
        return {"none": None, "files": self.mask, "alpha": self}[masks]

    def read(self) -> bytes:
        """Raises BadPicture."""
        try:
            return read_part(self.path, self.start, self.size)
        except OSError as error:
            raise BadPicture(f"it cannot be read: {error.strerror or error}") from error


def find_pictures(roots: list[Path], folders: list[Folder]) -> Iterator[Found]:
    """Every picture below the roots, in the order of their names; a folder reached twice is entered once."""
    seen: set[tuple[int, int]] = set()
    for root in roots:
        yield from _below(root, "", root.name if len(roots) > 1 else "", folders, {}, seen)


def _below(
    root: Path, place: str, label: str, folders: list[Folder], told: Mapping[str, tuple[str, ...]], seen: set
) -> Iterator[Found]:
    """`place` is the folder's path below the root, "" for the root itself; `told` are captions from tables above it."""
    here = root / place
    try:
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:  # a link to what encloses it, or to what was there already
            return
        seen.add((status.st_dev, status.st_ino))
        entries = sorted(os.scandir(here), key=lambda entry: entry.name)
    except OSError as error:
        yield Found(os.path.join(label, place, ""), str(here), (), (), bad=f"it cannot be entered: {error.strerror}")
        return
    paths = place or ".", os.path.join(root.name, place).rstrip(os.sep)
    folder = next((entry for entry in folders if any(fnmatch(path, entry.path) for path in paths)), PLAIN)
    names = {entry.name for entry in entries}
    pictures = {stem for stem, suffix in map(os.path.splitext, names) if suffix.lower() in SUFFIXES}
    tables = read_tables(here, [name for name in names if name in TABLES or name.endswith(".parquet")])
    tables |= {name: tables.get(name, ()) + captions for name, captions in told.items()}
    for entry in entries:
        stem, suffix = os.path.splitext(entry.name)
        if _is_folder(entry):
            if not entry.name.startswith("."):
                start = f"{entry.name}/"
                inner = {name.removeprefix(start): tables[name] for name in tables if name.startswith(start)}
                yield from _below(root, os.path.join(place, entry.name), label, folders, inner, seen)
        elif suffix.lower() in SUFFIXES:
            found = Found(os.path.join(label, place, entry.name), entry.path, (), (), folder)
            if not entry.name.endswith(MASK):
                _complete(found, entry, [here / f"{stem}{end}" for end in TEXTS if f"{stem}{end}" in names], tables)
                found.mask = _mask(here / f"{stem}{MASK}") if f"{stem}{MASK}" in names else None
                yield found
            elif entry.name.removesuffix(MASK) not in pictures:
                found.bad = "by its name it is a mask, and there is no picture that it belongs to"
                yield found


def _complete(found: Found, entry: os.DirEntry, texts: list[Path], tables: Mapping[str, tuple[str, ...]]) -> None:
    """Adds what the file system and the captions beside it say."""
    try:
        status = entry.stat()
        found.identity = _identity(status)
        captions = tuple(path.read_bytes().decode("utf-8-sig").strip() for path in texts)
        found.captions = tuple(filter(None, (*captions, *tables.get(entry.name, ()))))
    except OSError as error:
        found.bad = f"it cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        found.bad = f"its caption is not in UTF-8: byte {error.object[error.start]:#x} at {error.start}"
    if not found.captions and found.folder.class_token:
        found.captions = (found.folder.class_token,)


def _mask(path: Path) -> Found:
    try:
        return Found(path.name, str(path), _identity(path.stat()), ())
    except OSError:  # told when it is read, which only some settings do
        return Found(path.name, str(path), (), ())


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that ends in itself is no folder
        return False
