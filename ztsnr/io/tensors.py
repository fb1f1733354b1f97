"""Files of tensors, complete or absent, and their checksums."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ztsnr.core.errors import CheckpointError
from ztsnr.io.atomic import write_atomically


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """The tensors must be contiguous, in host memory. Raises CheckpointError, with the needed and the free space."""
    try:
        write_atomically(path, lambda temporary: save_file(dict(tensors), temporary, dict(metadata)))
    except (OSError, SafetensorError) as error:
        needed = sum(tensor.nbytes for tensor in tensors.values())
        reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]
        raise CheckpointError(f"{path} could not be written: {reason}. {_space(path, needed)}") from error


def _space(path: Path, needed: int) -> str:
    try:
        free = f"{shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are free"
    except OSError as error:
        free = f"its folder cannot be read: {error.strerror}"
    return f"It needs {needed / 1e6:,.1f} MB; {free}."


def open_tensors(path: Path) -> safe_open:
    """safe_open, with errors of our own. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file: {error}") from error


def checksum(tensors: Mapping[str, Tensor], *texts: str) -> str:
    """SHA-256 of names, types, shapes and bytes, whatever their order, and texts; contiguous tensors in host memory."""
    content = hashlib.sha256("\0".join(texts).encode())
    for name, tensor in sorted(tensors.items()):
        content.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        content.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()
