"""Signals that stop a run: the first takes effect after the current step, a second one kills the process."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Self

from ztsnr.devices.processes import any_process

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""A scheduler's, Ctrl-C's, and SLURM's warning before its time limit."""

SAME_SIGNAL_SECONDS = 1.0
"""Repeats within this time count as one signal: Ctrl-C reaches a process directly and through its launcher."""

Handler = Callable[[int, FrameType | None], object] | int | None


class StopSignals:
    """Catches STOP_SIGNALS. Use it as a context, which restores the previous handlers at its end."""

    def __init__(self) -> None:
        self.name = ""
        """Of the signal that this process received, such as SIGTERM."""
        self._received_at = 0.0
        self._previous: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def install(self) -> None:
        """Does nothing outside the main thread: Python allows handlers only there."""
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)

    def restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def requested(self) -> bool:
        """Whether any process received a signal: all must stop after the same step."""
        return any_process(self.name != "")

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if not self.name:
            self.name = signal.Signals(number).name
            self._received_at = time.monotonic()
            message = f"\n{self.name}: the run saves its state after this step and stops. A second signal kills it.\n"
            os.write(2, message.encode())  # print is not safe in a handler
        elif time.monotonic() - self._received_at > SAME_SIGNAL_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
