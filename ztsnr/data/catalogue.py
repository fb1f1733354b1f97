"""What is in the pictures that were found: size and content, each file read and decoded once in its life."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import astuple, dataclass, field
from itertools import islice
from pathlib import Path

from ztsnr.data.decode import examine
from ztsnr.data.listing import Found
from ztsnr.errors import BadPicture, CacheError

VERSION = 1
"""Of the memory of what was examined; raised when examine() comes to judge otherwise."""
CHUNK = 256


@dataclass(frozen=True, slots=True)
class Picture:
    found: Found
    digest: bytes
    """16 bytes, of the file's content."""
    size: tuple[int, int]
    """Height and width of the upright picture."""

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
    bad: str


def catalogue(
    listing: Iterable[Found], memory: Path, workers: int, stop: bool, tell: Callable[[int], object]
) -> Catalogue:
    """Examines what is listed, by `workers` threads; what the memory knows of an unchanged file is not done again.

    A bad file is skipped with its reason, or with `stop` raises BadPicture. `tell` hears how many are done.
    """
    made, listing, done = Catalogue(), iter(listing), 0
    with closing(_opened(memory)) as known, ThreadPoolExecutor(workers) as pool:
        while chunk := list(islice(listing, CHUNK)):
            for found, seen in zip(chunk, _seen(chunk, known, pool), strict=True):
                if bad := found.bad or seen.bad:
                    if stop:
                        raise BadPicture(f"{found.name}: {bad}. data.on_bad=skip goes on without it.")
                    made.skipped[found.name] = bad
                else:
                    made.pictures.append(Picture(found, seen.digest, (seen.height, seen.width)))
            done += len(chunk)
            tell(done)
    return made


def _seen(chunk: list[Found], known: sqlite3.Connection, pool: ThreadPoolExecutor) -> Iterator[Seen | None]:
    """One for each of the chunk, None for what is bad already."""
    remembered = {found.place: _recall(known, found) for found in chunk if not found.bad}
    new = [found for found in chunk if not found.bad and remembered[found.place] is None]
    looked = dict(zip((found.place for found in new), pool.map(_look, new), strict=True))
    rows = [(found.place, json.dumps(found.identity), *astuple(looked[found.place])) for found in new]
    with known:
        known.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?)", rows)
    return (None if found.bad else remembered[found.place] or looked[found.place] for found in chunk)


def content_digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _look(found: Found) -> Seen:
    try:
        content = found.read()
        return Seen(content_digest(content), *examine(content), "")
    except BadPicture as error:
        return Seen(b"", 0, 0, str(error))


def _recall(known: sqlite3.Connection, found: Found) -> Seen | None:
    query = "SELECT digest, height, width, bad FROM pictures WHERE path = ? AND identity = ?"
    row = known.execute(query, (found.place, json.dumps(found.identity))).fetchone()
    return Seen(*row) if row and not row[3] else None  # what was bad may have been so for want of a right or a plug-in


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
            columns = "path TEXT PRIMARY KEY, identity TEXT, digest BLOB, height INTEGER, width INTEGER, bad TEXT"
            known.execute(f"CREATE TABLE IF NOT EXISTS pictures ({columns})")
        return known
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CacheError(f"{memory} cannot be opened ({reason}). Delete it, or choose another data.cache.") from error


def threads(workers: int) -> int:
    """0 stands for one a core that this process may use."""
    return workers or len(os.sched_getaffinity(0))
