"""What is in the pictures that were found: size and content, each file read and decoded once in its life."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import astuple, dataclass, field
from itertools import islice, repeat
from pathlib import Path

from ztsnr.caching.decode import examine, examine_mask
from ztsnr.caching.listing import Found
from ztsnr.core.errors import BadPicture, CacheError

VERSION = 2
"""Of the memory of what was examined; raised when examine() comes to judge otherwise."""
CHUNK = 256


@dataclass(frozen=True, slots=True)
class Picture:
    found: Found
    digest: bytes
    """16 bytes, of the file's content."""
    size: tuple[int, int]
    """Height and width of the upright picture."""
    mask: bytes = b""
    """The digest of what holds its mask; b"" where all of it is trained."""

    @property
    def fraction(self) -> float:
        """A number in [0, 1) that the content alone decides."""
        return int.from_bytes(self.digest[:8], "big") / 2**64


@dataclass
class Catalogue:
    pictures: list[Picture] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Name -> why."""


@dataclass(frozen=True)
class Seen:
    """What one look at a file's bytes told."""

    digest: bytes
    height: int
    width: int
    mask: bytes
    bad: str


def catalogue(
    listing: Iterable[Found], masks: str, memory: Path, workers: int, stop: bool, tell: Callable[[int], object]
) -> Catalogue:
    """Examines what is listed, by `workers` threads; what the memory knows of an unchanged file is not done again.

    A bad file is skipped with its reason, or with `stop` raises BadPicture. `tell` hears how many more are done.
    """
    made, listing = Catalogue(), iter(listing)
    with closing(_opened(memory)) as known, ThreadPoolExecutor(workers) as pool:
        while chunk := list(islice(listing, CHUNK)):
            for found, seen in zip(chunk, _seen(chunk, masks, known, pool), strict=True):
                if bad := found.bad or seen.bad:
                    if stop:
                        raise BadPicture(f"{found.name}: {bad}. data.on_bad=skip goes on without it.")
                    made.skipped[found.name] = bad
                else:
                    made.pictures.append(Picture(found, seen.digest, (seen.height, seen.width), seen.mask))
            tell(len(chunk))
    return made


def _seen(chunk: list[Found], masks: str, known: sqlite3.Connection, pool: ThreadPoolExecutor) -> Iterator[Seen | None]:
    """One for each of the chunk, None for what is bad already."""
    identity = {found.place: _identity(found, masks) for found in chunk}
    remembered = {found.place: _recall(known, found.place, identity[found.place]) for found in chunk if not found.bad}
    new = [found for found in chunk if not found.bad and remembered[found.place] is None]
    looked = dict(zip((found.place for found in new), pool.map(_look, new, repeat(masks)), strict=True))
    rows = [(found.place, identity[found.place], *astuple(looked[found.place])) for found in new]
    with known:
        known.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    return (None if found.bad else remembered[found.place] or looked[found.place] for found in chunk)


def content_digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def unchanged(found: Found, digest: bytes) -> bytes:
    """The content that was examined. Raises BadPicture."""
    content = found.read()
    if content_digest(content) != digest:
        raise BadPicture("it has changed since it was examined; start again")
    return content


def _look(found: Found, masks: str) -> Seen:
    try:
        content = found.read()
        size = examine(content)
        return Seen(content_digest(content), *size, _mask_digest(found, masks, size), "")
    except BadPicture as error:
        return Seen(b"", 0, 0, b"", str(error))


def _mask_digest(found: Found, masks: str, size: tuple[int, int]) -> bytes:
    if (file := found.mask_file(masks)) is None:
        return b""
    content = file.read()
    return content_digest(content) if examine_mask(content, masks, size) else b""


def _identity(found: Found, masks: str) -> str:
    """What changes when the picture or its mask does, or where that is."""
    file = found.mask_file(masks)
    return json.dumps([*found.identity, masks, *file.identity] if file else found.identity)


def _recall(known: sqlite3.Connection, place: str, identity: str) -> Seen | None:
    query = "SELECT digest, height, width, mask, bad FROM pictures WHERE path = ? AND identity = ?"
    row = known.execute(query, (place, identity)).fetchone()
    return Seen(*row) if row and not row[4] else None  # what was bad may have been so for want of a right or a plug-in


def _opened(memory: Path) -> sqlite3.Connection:
    """The database, made where there is none or it is of another version."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        known = sqlite3.connect(memory, timeout=60)
        (version,) = known.execute("PRAGMA user_version").fetchone()
        with known:
            if version != VERSION:
                known.execute("DROP TABLE IF EXISTS pictures")
                known.execute(f"PRAGMA user_version = {VERSION}")
            columns = "identity TEXT, digest BLOB, height INTEGER, width INTEGER, mask BLOB, bad TEXT"
            known.execute(f"CREATE TABLE IF NOT EXISTS pictures (path TEXT PRIMARY KEY, {columns})")
        return known
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CacheError(f"{memory} cannot be opened ({reason}). Delete it, or choose another data.cache.") from error


def threads(workers: int) -> int:
    """0 stands for one a core that this process may use."""
    return workers or len(os.sched_getaffinity(0))
