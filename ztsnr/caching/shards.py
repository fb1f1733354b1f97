"""A cache of encoded entries, in safetensors files that are each written completely and never changed.

Several processes may fill one at the same time: a unit of work is a file that is to be; who holds its lock makes it.
An entry's key is a hash of all that it depends on. What it is made of is part of the format: names in it are those of
commit 0de1f9a, whatever the classes and fields of settings are called since.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save
from torch import Tensor

from ztsnr.core.errors import CacheError, CheckpointError
from ztsnr.io.atomic import write_bytes_atomically
from ztsnr.io.console import Progress
from ztsnr.io.tensors import open_tensors

CACHE_FORMAT = 2
"""Of shards and indices, and of the code that decodes and encodes. Raising it encodes everything again."""
KEY_BYTES = 16
GROW_AFTER = 16
"""A halved batch size is doubled after this many successful batches."""
Keys = dict[bytes, tuple[str, int]]
"""Key -> shard, as a path below the cache, and row."""


# Keys ----------------------------------------------------------------------------------------------------------------


class KeyText(str):
    """A text that enters a key without quotes."""

    __repr__ = str.__str__


def key_text(name: str, **values: object) -> KeyText:
    """name(field=value, ...)"""
    return KeyText(f"{name}({', '.join(f'{field}={value!r}' for field, value in values.items())})")


def hashed(*parts: object) -> bytes:
    """16 bytes that change with any of the parts: values whose repr() never changes, and KeyText."""
    return blake2b(repr((CACHE_FORMAT, *parts)).encode(), digest_size=KEY_BYTES).digest()


# Shards --------------------------------------------------------------------------------------------------------------


class Entry(Protocol):
    """An entry to encode."""

    @property
    def group(self) -> str:
        """All entries of a shard have the same group."""
        ...


class Encoder(Protocol):
    """Encodes entries of one kind."""

    kind: str
    """Folder of the shards."""
    label: str
    unit: str
    """Unit of the progress bar."""
    batch_size: int
    """Largest number of entries in a batch."""

    def encode(self, batch: list[Any], upcoming: list[Any]) -> Mapping[str, Tensor]:
        """Entries of one group -> tensors with as many rows. `upcoming` are likely to follow, and may be read ahead."""
        ...


class AdaptiveBatches:
    """Batches of at most `largest` entries. Halves the size when memory runs out, and doubles it later."""

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self.size = largest
        self.successes = 0

    def map(
        self,
        entries: list[Any],
        encode: Callable[[list[Any], list[Any]], Mapping[str, Tensor]],
        report: Callable[[int], object],
    ) -> dict[str, Tensor]:
        """What `encode`, see Encoder, makes of all entries. Raises CacheError. `report` is called with how many more
        are done."""
        start = 0
        parts = []
        while start < len(entries):
            stop = min(start + self.size, len(entries))
            batch = entries[start:stop]
            try:
                parts.append(encode(batch, entries[stop : stop + 2 * len(batch)]))
            except (torch.OutOfMemoryError, MemoryError):
                self._shrink(len(batch))
            except RuntimeError as error:
                if "can't allocate memory" not in str(error):  # torch has no class of its own for this on CPUs
                    raise
                self._shrink(len(batch))
            else:
                start = stop
                report(len(batch))
                self._succeeded()
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _shrink(self, tried: int) -> None:
        if tried == 1:
            raise CacheError("Out of memory for a single image. Set data.encoding.tile=512.")
        self.size = tried // 2
        self.successes = 0
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _succeeded(self) -> None:
        self.successes += 1
        if self.successes >= GROW_AFTER and self.size < self.largest:
            self.size = min(2 * self.size, self.largest)
            self.successes = 0


@dataclass(frozen=True)
class ShardStore:
    """The shards of one kind."""

    cache: Path
    kind: str

    @property
    def folder(self) -> Path:
        return self.cache / self.kind

    def keys(self) -> Keys:
        """The location of each entry; the first, if it occurs twice."""
        known: Keys = {}
        self._read_new(known, set())
        return known

    def _read_new(self, known: Keys, read: set[str]) -> None:
        """Adds the entries of new shards."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in read:
                read.add(path.name)
                for row, key in enumerate(_keys(path)):
                    known.setdefault(key, (f"{self.kind}/{path.name}", row))

    def fill(self, entries: Mapping[bytes, Any], encoder: Encoder, shard_size: int, progress: Progress) -> Keys:
        """Encodes the entries that are missing, by key, in shards of about `shard_size`.

        Shards that other processes work on are waited for. Raises CacheError.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.delete_unfinished()
        known: Keys = {}
        read: set[str] = set()
        self._read_new(known, read)
        batches = AdaptiveBatches(encoder.batch_size)

        with progress.counting(encoder.label, len(entries.keys() - known.keys()), encoder.unit) as report:
            while units := self._units({key: entry for key, entry in entries.items() if key not in known}, shard_size):
                waiting = []
                for name, keys in units.items():
                    try:
                        with self.lock(name).acquire(timeout=0):
                            self._read_new(known, read)  # other processes may have written shards
                            if missing := [key for key in keys if key not in known]:
                                tensors = batches.map([entries[key] for key in missing], encoder.encode, report)
                                self._write(name, missing, tensors)
                    except Timeout:
                        waiting.append(name)

                if len(waiting) == len(units):  # other processes work on all that is left
                    with self.lock(waiting[0]):
                        pass
                self._read_new(known, read)
        return known

    def delete_unfinished(self) -> None:
        """Deletes unfinished files of killed processes."""
        for path in self.folder.glob(".*.safetensors.*"):
            try:
                with self.lock(path.name[1:].partition(".")[0]).acquire(timeout=0):
                    path.unlink(missing_ok=True)
            except Timeout:
                continue  # its writer is alive

    def lock(self, name: str) -> FileLock:
        """Hold this lock while writing the file of this name."""
        (self.cache / "locks").mkdir(exist_ok=True)
        return FileLock(self.cache / "locks" / f"{self.kind}-{name}.lock")

    def _write(self, name: str, keys: Sequence[bytes], tensors: Mapping[str, Tensor]) -> None:
        stored_keys = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, KEY_BYTES)
        stored = {"key": stored_keys} | {kind: tensor.contiguous() for kind, tensor in tensors.items()}
        write_shard(self.folder / f"{name}.safetensors", stored, {"ztsnr.rows": str(len(keys))})

    def _units(self, missing: Mapping[bytes, Entry], size: int) -> dict[str, list[bytes]]:
        """Name -> keys. The same missing entries give the same units in every process."""
        groups: dict[str, list[bytes]] = {}
        for key in sorted(missing):
            groups.setdefault(missing[key].group, []).append(key)

        units = {}
        for group in sorted(groups):
            keys = iter(groups[group])
            while part := list(islice(keys, size)):
                units[f"{group}-{part[0].hex()}"] = part
        return units


def write_shard(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes the file completely or not at all. Raises CacheError."""
    content = save(dict(tensors), dict(metadata))  # save_file would leave a temporary file if it is killed
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, content)
    except OSError as error:
        needed = f"It needs {len(content) / 1e6:.1f} MB; what is cached already stays."
        raise CacheError(f"{path} could not be written: {error.strerror}. {needed}") from error


def _keys(path: Path) -> Iterable[bytes]:
    try:
        with open_tensors(path) as file:
            content = file.get_tensor("key").numpy().tobytes()
    except CheckpointError as error:
        raise CacheError(f"{error}. Delete it: its content is encoded again.") from error
    return (content[start : start + KEY_BYTES] for start in range(0, len(content), KEY_BYTES))
