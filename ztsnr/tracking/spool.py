"""A run's record on the disk, before anything is sent: RUN/tracking/events.jsonl, to which lines are only added.

delivered.json beside it says up to which byte the events have arrived, and files/ holds the pictures that wait.
"""

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from PIL.Image import Image

from ztsnr.core.errors import TrackingError

LOCK_SECONDS = 5.0
"""For one that is just ending."""


class Spool:
    """Of one run, RUN/tracking; one process at a time may have it. After a kill it goes on behind the last whole line.

    What was put down once is not put down again: a resumed run repeats the steps since its checkpoint.
    Writing never raises: what a full disk does not take waits in memory, and `lost` says why.
    """

    def __init__(self, folder: Path):
        self.run_folder, self.folder = folder.parent, folder
        self.events = self.folder / "events.jsonl"
        try:
            (self.folder / "files").mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / "lock", thread_local=False)
            self._lock.acquire(timeout=LOCK_SECONDS)
            self._file = os.open(self.events, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except Timeout as error:
            raise TrackingError(f"{self.folder} is in use by another process that trains or delivers") from error
        except OSError as error:
            raise TrackingError(f"The record of the run, {self.folder}, cannot be made: {error.strerror}") from error
        self.lost: OSError | None = None
        self._waiting = b""
        self._highest: dict[str, int] = {}
        self.begun: dict | None = None
        """What the run was started with; None for a new one."""
        self.resumed: list[int] = []
        self._recall()

    def _recall(self) -> None:
        whole = 0
        for end, event in self.read(0):
            self._remember(event)
            whole = end
        os.ftruncate(self._file, whole)

    def _remember(self, event: dict) -> None:
        kind = event["kind"]
        if kind == "start":
            self.begun = event
        elif kind == "resume":
            self.resumed.append(event["step"])
        elif kind == "metrics":
            self._highest |= dict.fromkeys(event["values"], event["step"])
        elif kind == "picture":
            self._highest[event["name"]] = event["step"]

    def put(self, kind: str, **content) -> None:
        event = {"kind": kind, "time": int(time.time() * 1000)} | content
        self._remember(event)
        self._waiting += json.dumps(event).encode() + b"\n"
        try:
            while self._waiting:
                self._waiting = self._waiting[os.write(self._file, self._waiting) :]
            self.lost = None
        except OSError as error:
            self.lost = error

    def metrics(self, values: dict[str, float], step: int) -> None:
        new = {name: value for name, value in values.items() if step > self._highest.get(name, -1)}
        if new:
            self.put("metrics", step=step, values=new)

    def picture(self, name: str, picture: Image, step: int) -> None:
        if step <= self._highest.get(name, -1):
            return
        file = f"{name.replace('/', '~')}+step+{step}+timestamp+{int(time.time() * 1000)}+{uuid.uuid4()}.png"
        try:
            picture.save(self.folder / "files" / file, compress_level=1)
        except OSError as error:
            self.lost = error
            return
        self.put("picture", name=name, step=step, file=file)

    def read(self, position: int) -> Iterator[tuple[int, dict]]:
        """The whole lines from this byte on, each with where it ends."""
        with open(self.events, "rb") as file:
            file.seek(position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    event = json.loads(line)
                except ValueError as error:
                    raise TrackingError(
                        f"{self.events} is damaged at byte {position}: move {self.folder} away to begin a new record"
                    ) from error
                position += len(line)
                yield position, event

    @property
    def delivered(self) -> dict:
        """position, and once there is a run, run_id and experiment_id."""
        try:
            return json.loads((self.folder / "delivered.json").read_text())
        except (OSError, ValueError):
            return {"position": 0}  # what arrives again changes nothing

    def mark(self, **delivered) -> None:
        temporary = self.folder / ".delivered"
        temporary.write_text(json.dumps(delivered))
        temporary.replace(self.folder / "delivered.json")

    def undelivered(self) -> int:
        return sum(1 for _ in self.read(self.delivered["position"]))

    def to_disk(self) -> None:
        with contextlib.suppress(OSError):  # put has told of it, or will
            os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)
        self._lock.release()
