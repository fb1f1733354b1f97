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
from ztsnr.io.tensors import open_tensors

CACHE_FORMAT = 2
"""Of shards and indices, and of the code that decodes and encodes. Raising it encodes everything again."""
KEY_BYTES = 16
Keys = dict[bytes, tuple[str, int]]
"""Key -> shard (path below the cache) and row."""


# Keys ----------------------------------------------------------------------------------------------------------------


class KeyText:
    """A text that is part of a key as it is, without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def key_text(name: str, **values: object) -> KeyText:
    """name(field=value, ...)"""
    return KeyText(f"{name}({', '.join(f'{field}={value!r}' for field, value in values.items())})")


def hashed(*parts: object) -> bytes:
    """16 bytes that change with any of the parts: values whose repr() never changes, and KeyText."""
    return blake2b(repr((CACHE_FORMAT, *parts)).encode(), digest_size=KEY_BYTES).digest()


# Shards --------------------------------------------------------------------------------------------------------------


class Entry(Protocol):
    """What is to be encoded."""

    @property
    def group(self) -> str:
        """Entries of one shard have one group."""
        ...


@dataclass(frozen=True)
class ShardStore:
    """The shards of one kind."""

    cache: Path
    kind: str

    @property
    def folder(self) -> Path:
        return self.cache / self.kind

    def keys(self) -> Keys:
        """Where each entry is; of one that is there twice, the first."""
        known: Keys = {}
        self._read_new(known, set())
        return known

    def _read_new(self, known: Keys, read: set[str]) -> None:
        """Adds the entries of shards that were not read yet."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in read:
                read.add(path.name)
                for row, key in enumerate(_keys(path)):
                    known.setdefault(key, (f"{self.kind}/{path.name}", row))

    def fill(
        self,
        wanted: Mapping[bytes, Any],
        unit: int,
        encode: Callable[[Any], Mapping[str, Tensor]],
        begin: Callable[[int], object] = lambda missing: None,
    ) -> Keys:
        """Encodes what is wanted and missing, in units of about so many; `wanted` maps keys to entries.

        encode(entries of one group) -> tensors with as many rows. Units that other processes work on are waited for.
        `begin` is called with the number of missing entries.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.delete_unfinished()
        known: Keys = {}
        read: set[str] = set()
        self._read_new(known, read)
        begin(len(wanted.keys() - known.keys()))

        while units := self._units({key: entry for key, entry in wanted.items() if key not in known}, unit):
            waiting = []
            for name, keys in units.items():
                try:
                    with self.lock(name).acquire(timeout=0):
                        self._read_new(known, read)  # others may have written meanwhile
                        if missing := [key for key in keys if key not in known]:
                            self._write(name, missing, encode([wanted[key] for key in missing]))
                except Timeout:
                    waiting.append(name)

            if len(waiting) == len(units):  # other processes work on all that is left
                with self.lock(waiting[0]):
                    pass
            self._read_new(known, read)
        return known

    def delete_unfinished(self) -> None:
        """Deletes what killed processes left half written."""
        for path in self.folder.glob(".*.safetensors.*"):
            try:
                with self.lock(path.name[1:].partition(".")[0]).acquire(timeout=0):
                    path.unlink(missing_ok=True)
            except Timeout:
                continue  # its writer is alive

    def lock(self, name: str) -> FileLock:
        """To be held while the file of this name is written."""
        (self.cache / "locks").mkdir(exist_ok=True)
        return FileLock(self.cache / "locks" / f"{self.kind}-{name}.lock")

    def _write(self, name: str, keys: Sequence[bytes], tensors: Mapping[str, Tensor]) -> None:
        stored_keys = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, KEY_BYTES)
        stored = {"key": stored_keys} | {kind: tensor.contiguous() for kind, tensor in tensors.items()}
        write_shard(self.folder / f"{name}.safetensors", stored, {"ztsnr.rows": str(len(keys))})

    def _units(self, missing: Mapping[bytes, Entry], unit: int) -> dict[str, list[bytes]]:
        """Name -> keys. The same missing entries give the same units in every process."""
        groups: dict[str, list[bytes]] = {}
        for key in sorted(missing):
            groups.setdefault(missing[key].group, []).append(key)

        units = {}
        for group in sorted(groups):
            keys = iter(groups[group])
            while part := list(islice(keys, unit)):
                units[f"{group}-{part[0].hex()}"] = part
        return units


def write_shard(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Completely or not at all. Raises CacheError."""
    content = save(dict(tensors), dict(metadata))  # its save_file would leave a file of its own where it is killed
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
