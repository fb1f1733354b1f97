"""Size and hash of each listed image. A database remembers them, so that only new or changed files are read."""

import json
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import astuple, dataclass, field
from hashlib import blake2b
from itertools import islice, repeat
from pathlib import Path

from ztsnr.caching.decode import MaskSource, examine, examine_mask
from ztsnr.caching.settings import PLAIN_FOLDER, FolderOptions
from ztsnr.core.errors import BadImage, CacheError
from ztsnr.io.remote import read_part

DATABASE_FORMAT = 2
"""Increase it when examine() changes its result for any image: every image is then examined again."""
CHUNK = 256


@dataclass(slots=True)
class ImageFile:
    """A listed image. `bad` is the reason if the listing already shows that the image cannot be used."""

    name: str
    path: str
    identity: tuple
    """Changes when the file changes: inode, size, times."""
    captions: tuple[str, ...]
    folder: FolderOptions = field(default=PLAIN_FOLDER, repr=False)
    bad: str = ""
    start: int = 0
    """Offset of the image in the file."""
    size: int = -1
    """Length in bytes; -1 reaches to the end of the file."""
    mask: "ImageFile | None" = None
    """The mask file: black is not trained, white is."""

    @property
    def location(self) -> str:
        """Unique name: the path, and the offset in that file."""
        return f"{self.path}#{self.start}" if self.start else self.path

    def mask_file(self, masks: MaskSource) -> "ImageFile | None":
        """The file that contains the mask: a mask file, or the image itself for its transparency."""
        return {"none": None, "files": self.mask, "alpha": self}[masks]

    def read(self) -> bytes:
        """Raises BadImage."""
        try:
            return read_part(self.path, self.start, self.size)
        except OSError as error:
            raise BadImage(f"it cannot be read: {error.strerror or error}") from error

    def read_verified(self, digest: bytes) -> bytes:
        """The content, which must have this digest. Raises BadImage if it changed since the inspection."""
        content = self.read()
        if content_digest(content) != digest:
            raise BadImage("the file changed while it was being cached; run the command again")
        return content


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    file: ImageFile
    digest: bytes
    """Hash of the file's content, 16 bytes."""
    size: tuple[int, int]
    """Height and width of the upright image."""
    mask_digest: bytes = b""
    """Hash of the file with the mask; b"" without a mask."""


@dataclass
class Catalogue:
    images: list[CatalogueEntry] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Name -> reason."""


@dataclass(frozen=True)
class Inspection:
    """The result of reading an image and its mask, as the database stores it."""

    digest: bytes
    height: int
    width: int
    mask_digest: bytes
    bad: str


def build_catalogue(
    listing: Iterable[ImageFile],
    *,
    masks: MaskSource,
    database: Path,
    workers: int,
    stop_at_bad: bool,
    report: Callable[[int], object],
) -> Catalogue:
    """Inspects the listed images in `workers` threads. Does not read files that are unchanged in the database.

    Skips a bad file with its reason, or raises BadImage with `stop_at_bad`. Calls `report` with the number of files
    after each chunk.
    """
    result = Catalogue()
    files = iter(listing)
    with closing(_open(database)) as known, ThreadPoolExecutor(workers) as pool:
        while chunk := list(islice(files, CHUNK)):
            inspections = _inspect_all([file for file in chunk if not file.bad], masks, known, pool)
            for file in chunk:
                # a bad file of the listing was not inspected
                bad = file.bad or inspections[file.location].bad
                if bad and stop_at_bad:
                    raise BadImage(f"{file.name}: {bad}. data.on_bad=skip continues without it.")
                if bad:
                    result.skipped[file.name] = bad
                else:
                    result.images.append(_entry(file, inspections[file.location]))
            report(len(chunk))
    return result


def _entry(file: ImageFile, inspection: Inspection) -> CatalogueEntry:
    size = inspection.height, inspection.width
    return CatalogueEntry(file, inspection.digest, size, inspection.mask_digest)


def content_digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def _inspect_all(
    files: list[ImageFile], masks: MaskSource, known: sqlite3.Connection, pool: ThreadPoolExecutor
) -> dict[str, Inspection]:
    """Location -> inspection. Reads new and changed files and stores them in the database."""
    identities = {file.location: _identity(file, masks) for file in files}
    inspections = {}
    new = []
    for file in files:
        recalled = _recall(known, file.location, identities[file.location])
        if recalled is None:
            new.append(file)
        else:
            inspections[file.location] = recalled

    rows = []
    for file, inspection in zip(new, pool.map(_inspect, new, repeat(masks)), strict=True):
        inspections[file.location] = inspection
        rows.append((file.location, identities[file.location], *astuple(inspection)))
    with known:
        known.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    return inspections


def _inspect(file: ImageFile, masks: MaskSource) -> Inspection:
    try:
        content = file.read()
        height, width = examine(content)
        return Inspection(content_digest(content), height, width, _mask_digest(file, masks, (height, width)), "")
    except BadImage as error:
        return Inspection(b"", 0, 0, b"", str(error))


def _mask_digest(file: ImageFile, masks: MaskSource, size: tuple[int, int]) -> bytes:
    mask_file = file.mask_file(masks)
    if mask_file is None:
        return b""
    content = mask_file.read()
    return content_digest(content) if examine_mask(content, masks, size) else b""


def _identity(file: ImageFile, masks: MaskSource) -> str:
    """Changes when the image, its mask or the source of masks changes."""
    mask_file = file.mask_file(masks)
    return json.dumps([*file.identity, masks, *mask_file.identity] if mask_file else file.identity)


def _recall(known: sqlite3.Connection, location: str, identity: str) -> Inspection | None:
    query = "SELECT digest, height, width, mask, bad FROM pictures WHERE path = ? AND identity = ?"
    row = known.execute(query, (location, identity)).fetchone()
    if row is None or row[4]:  # a bad file may be readable now, with a permission or a plug-in
        return None
    return Inspection(*row)


def _open(database: Path) -> sqlite3.Connection:
    """Opens the database, or creates it. Drops a table of another version. The table's names are part of the format."""
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        known = sqlite3.connect(database, timeout=60)
        (version,) = known.execute("PRAGMA user_version").fetchone()
        with known:
            if version != DATABASE_FORMAT:
                known.execute("DROP TABLE IF EXISTS pictures")
                known.execute(f"PRAGMA user_version = {DATABASE_FORMAT}")
            columns = "identity TEXT, digest BLOB, height INTEGER, width INTEGER, mask BLOB, bad TEXT"
            known.execute(f"CREATE TABLE IF NOT EXISTS pictures (path TEXT PRIMARY KEY, {columns})")
        return known
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CacheError(f"{database} cannot be opened ({reason}). Delete it, or choose another data.cache.") from error
