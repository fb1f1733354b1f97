"""Files of tensors that are whole or absent, and that say if they changed."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ztsnr.core.errors import CheckpointError
from ztsnr.io.atomic import write_whole


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Contiguous tensors in host memory. Raises CheckpointError, which says how much room is needed and found."""
    try:
        write_whole(path, lambda temporary: save_file(dict(tensors), temporary, dict(metadata)))
    except (OSError, SafetensorError) as error:
        needed = sum(tensor.nbytes for tensor in tensors.values())
        reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]
        raise CheckpointError(f"{path} could not be written: {reason}. {_room(path, needed)}") from error


def _room(path: Path, needed: int) -> str:
    try:
        free = f"{shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are free"
    except OSError as error:
        free = f"its folder cannot be looked at: {error.strerror}"
    return f"It needs {needed / 1e6:,.1f} MB; {free}."


def open_tensors(path: Path):
    """safe_open, with errors of our own."""
    if not path.is_file():
        raise CheckpointError(f"checkpoint={path} is not a file")
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error


def checksum(tensors: Mapping[str, Tensor], *texts: str) -> str:
    """Of names, types, shapes and bytes, in whatever order a file holds them; contiguous tensors in host memory."""
    found = hashlib.sha256("\0".join(texts).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
