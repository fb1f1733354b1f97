"""A cache of encoded things, in safetensors files that are each written whole and never changed.

Several processes may fill one at the same time: a unit of work is a file that is to be; who holds its lock makes it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save
from torch import Tensor

from ztsnr.core.errors import CacheError, CheckpointError
from ztsnr.io.atomic import write_whole
from ztsnr.io.tensors import open_tensors

KEY_BYTES = 16
Keys = dict[bytes, tuple[str, int]]
"""Key -> shard (path below the cache) and row."""


@dataclass(frozen=True)
class Shelf:
    """The shards of one kind. An entry's key is a hash of all that it depends on."""

    cache: Path
    kind: str

    @property
    def folder(self) -> Path:
        return self.cache / self.kind

    def keys(self) -> Keys:
        """Where each entry is; of one that is there twice, the first."""
        known: Keys = {}
        self._look(known, set())
        return known

    def _look(self, known: Keys, read: set[str]) -> None:
        """Adds the entries of shards that were not read yet."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in read:
                read.add(path.name)
                for row, key in enumerate(_keys(path)):
                    known.setdefault(key, (f"{self.kind}/{path.name}", row))

    def fill(
        self, wanted: Mapping[bytes, object], unit: int, encode: Callable, begin: Callable = lambda missing: None
    ) -> Keys:
        """Encodes what is wanted and missing, by units of about so many; wanted maps a key to what encode takes.

        encode(items) -> tensors with len(items) rows; items of one unit have one `group`. Others' units are waited for.
        `begin` hears how many are missing.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sweep()
        known, read = {}, set()
        self._look(known, read)
        begin(len(wanted.keys() - known.keys()))
        while units := self._units({key: item for key, item in wanted.items() if key not in known}, unit):
            waiting = []
            for name, keys in units.items():
                try:
                    with self.lock(name).acquire(timeout=0):
                        self._look(known, read)  # others may have written meanwhile
                        if missing := [key for key in keys if key not in known]:
                            self._write(name, missing, encode([wanted[key] for key in missing]))
                except Timeout:
                    waiting.append(name)
            if len(waiting) == len(units):  # all that is left is in work elsewhere
                with self.lock(waiting[0]):
                    pass
            self._look(known, read)
        return known

    def sweep(self) -> None:
        """Deletes what killed processes left half written."""
        for path in self.folder.glob(".*.safetensors.*"):
            try:
                with self.lock(path.name[1:].partition(".")[0]).acquire(timeout=0):
                    path.unlink(missing_ok=True)
            except Timeout:
                continue  # its writer lives

    def _write(self, name: str, keys: list[bytes], tensors: Mapping[str, Tensor]) -> None:
        stored = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, KEY_BYTES)
        whole = {"key": stored} | {kind: tensor.contiguous() for kind, tensor in tensors.items()}
        write_shard(self.folder / f"{name}.safetensors", whole, {"ztsnr.rows": str(len(keys))})

    def _units(self, missing: Mapping[bytes, object], unit: int) -> dict[str, list[bytes]]:
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

    def lock(self, name: str) -> FileLock:
        """Held by who writes the file of this name."""
        (self.cache / "locks").mkdir(exist_ok=True)
        return FileLock(self.cache / "locks" / f"{self.kind}-{name}.lock")


def write_shard(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Whole or not at all. Raises CacheError."""
    content = save(dict(tensors), dict(metadata))  # its save_file would leave a file of its own where it is killed
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda temporary: temporary.write_bytes(content))
    except OSError as error:
        needed = f"It needs {len(content) / 1e6:.1f} MB; what is cached already stays."
        raise CacheError(f"{path} could not be written: {error.strerror}. {needed}") from error


def _keys(path: Path) -> Iterable[bytes]:
    try:
        with open_tensors(path) as file:
            content = file.get_tensor("key").numpy().tobytes()
    except CheckpointError as error:
        raise CacheError(f"{error}. Delete it: what it held is encoded again.") from error
    return (content[start : start + KEY_BYTES] for start in range(0, len(content), KEY_BYTES))
