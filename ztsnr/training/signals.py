"""Signals that ask a run to end: the first is waited for, a second one ends the process at once."""

import os
import signal
import threading
import time

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Of a scheduler, of Ctrl-C, and SLURM's warning before its limit."""

TOGETHER = 1.0
"""Seconds within which signals are one: Ctrl-C reaches a launcher and its processes, to which it passes it on."""


class Signals:
    def __init__(self):
        self.heard, self.name, self._since, self._before = False, "", 0.0, {}

    def listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in ASKING}

    def leave(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _hear(self, number: int, _frame) -> None:
        if not self.heard:
            self.heard, self.name, self._since = True, signal.Signals(number).name, time.monotonic()
            told = f"\n{self.name}: the run ends after this step, and is saved. A second signal ends it at once.\n"
            os.write(2, told.encode())  # print is not safe in here
        elif time.monotonic() - self._since > TOGETHER:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
