"""A run's record on the disk, before it is delivered to MLflow.

RUN/tracking/events.jsonl: the events, one JSON object per line; lines are only appended
RUN/tracking/delivered.json: the cursor, the byte up to which events have been delivered
RUN/tracking/files/: images that wait for delivery
RUN/tracking/lock: held by the process that trains or delivers
"""

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from PIL.Image import Image

from ztsnr.core.errors import TrackingError
from ztsnr.io.atomic import write_text_atomically

LOCK_SECONDS = 5.0
"""How long to wait for a process that is about to end."""


@dataclass
class Cursor:
    """How far the events have been delivered."""

    position: int = 0
    """Bytes of events.jsonl."""
    run_id: str = ""
    """MLflow's id of the run; empty before the run exists."""
    experiment_id: str = ""


class Spool:
    """The events of one run. Only one process can open it; after a kill it continues after the last complete line.

    When a resumed run repeats the steps since its checkpoint, their events are not recorded twice.
    Writing never raises: events that a full disk refuses wait in memory, and `write_error` has the reason.
    """

    def __init__(self, folder: Path) -> None:
        self.run_folder = folder.parent
        self.folder = folder
        self.events = folder / "events.jsonl"
        self.write_error: OSError | None = None
        self.start_event: dict | None = None
        """The event that started the run; None for a new run."""
        self._resume_steps: list[int] = []
        self._unwritten = b""
        self._last_step: dict[str, int] = {}  # of each metric and image
        self._open()
        self._drop_incomplete_line()

    def _open(self) -> None:
        try:
            (self.folder / "files").mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / "lock", thread_local=False)
            self._lock.acquire(timeout=LOCK_SECONDS)
            self._file = os.open(self.events, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except Timeout as error:
            raise TrackingError(f"{self.folder} is in use by another process that trains or delivers") from error
        except OSError as error:
            raise TrackingError(f"The run's record {self.folder} cannot be created: {error.strerror}") from error

    def _drop_incomplete_line(self) -> None:
        complete = 0
        for end, event in self.read(0):
            self._remember(event)
            complete = end
        os.ftruncate(self._file, complete)

    def _remember(self, event: dict) -> None:
        match event["kind"]:
            case "start":
                self.start_event = event
            case "resume":
                self._resume_steps.append(event["step"])
            case "metrics":
                self._last_step |= dict.fromkeys(event["values"], event["step"])
            case "image":
                self._last_step[event["name"]] = event["step"]

    def start_or_resume(self, start: Mapping[str, Any], step: int, changes: Sequence[str]) -> str:
        """Starts a new run with the fields of `start`, or resumes an earlier one after `step`; returns the record's id.

        changes: the differences in a resumed run's config.
        """
        if self.start_event is None:
            self.append("start", **start)
            return start["id"]
        steps = ", ".join(map(str, [*self._resume_steps, step]))
        self.append("resume", step=step, steps=steps, changes=list(changes))
        return self.start_event["id"]

    def append(self, kind: str, **content: object) -> None:
        event = {"kind": kind, "time": int(time.time() * 1000)} | content
        self._remember(event)
        self._unwritten += json.dumps(event).encode() + b"\n"
        try:
            while self._unwritten:
                written = os.write(self._file, self._unwritten)
                self._unwritten = self._unwritten[written:]
            self.write_error = None
        except OSError as error:
            self.write_error = error

    def add_metrics(self, values: Mapping[str, float], step: int) -> None:
        new = {name: value for name, value in values.items() if step > self._last_step.get(name, -1)}
        if new:
            self.append("metrics", step=step, values=new)

    def add_image(self, name: str, image: Image, step: int) -> None:
        if step <= self._last_step.get(name, -1):
            return
        milliseconds = int(time.time() * 1000)
        file = f"{name.replace('/', '~')}+step+{step}+timestamp+{milliseconds}+{uuid.uuid4()}.png"
        try:
            image.save(self.folder / "files" / file, compress_level=1)
        except OSError as error:
            self.write_error = error
            return
        self.append("image", name=name, step=step, file=file)

    def read(self, position: int) -> Iterator[tuple[int, dict]]:
        """The complete lines from this byte on, each with the position of its end."""
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
                yield position, _with_current_names(event)

    def read_cursor(self) -> Cursor:
        try:
            return Cursor(**json.loads((self.folder / "delivered.json").read_text()))
        except (OSError, ValueError, TypeError):
            return Cursor()  # delivers everything again, which changes nothing

    def save_cursor(self, cursor: Cursor) -> None:
        text = json.dumps(asdict(cursor))
        write_text_atomically(self.folder / "delivered.json", text)

    def undelivered_count(self) -> int:
        return sum(1 for _ in self.read(self.read_cursor().position))

    def flush(self) -> None:
        """Writes to the disk itself, so that events survive a loss of power."""
        with contextlib.suppress(OSError):  # append reports it
            os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)
        self._lock.release()


def _with_current_names(event: dict) -> dict:
    """Spools written up to 0de1f9a say "picture" for image."""
    if event["kind"] == "picture":
        return event | {"kind": "image"}
    if event["kind"] == "describe" and "pictures" in event:
        return event | {"images": event["pictures"]}
    return event
