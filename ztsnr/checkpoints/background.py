"""Writes tensors to files while training continues."""

import threading
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

Write = Callable[[Mapping[str, Tensor]], None]


class BackgroundWriter:
    """Copies tensors to host memory and writes the copies in a thread, one write at a time."""

    def __init__(self) -> None:
        self._buffers: dict[str, dict[str, Tensor]] = {}
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def start(self, kind: str, tensors: Mapping[str, Tensor], write: Write) -> None:
        """Copies the tensors, then calls `write` with the copies in a thread. Writes of one kind share a buffer."""
        self.wait()
        self._buffers[kind] = copy_to_host(tensors, self._buffers.get(kind, {}))
        self._thread = threading.Thread(
            target=self._run, args=(write, self._buffers[kind]), name="checkpoint writer", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Returns when the current write has ended."""
        if self._thread is not None:
            self._thread.join()

    def take_error(self) -> Exception | None:
        """The error of the last write, if it failed; a second call returns None."""
        error = self._error
        self._error = None
        return error

    def _run(self, write: Write, tensors: Mapping[str, Tensor]) -> None:
        try:
            write(tensors)
        except Exception as error:  # of any kind: the training thread raises or logs it
            self._error = error


def copy_to_host(tensors: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in host memory. Reuses `buffers` that fit, since allocating takes longer than copying."""
    copies = {}
    for name, tensor in tensors.items():
        buffer = buffers.get(name)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        if tensor.is_cuda:
            buffer.copy_(tensor, non_blocking=True)
        else:  # numpy copies in one thread; on a busy machine torch's threads spend longer waiting for each other
            _bytes(buffer)[:] = _bytes(tensor)
        copies[name] = buffer
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return copies


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
