"""Local and remote files: a path with a scheme, such as s3://, is read through fsspec."""

from pathlib import Path
from typing import IO, Any

from ztsnr.core.errors import CacheError, ConfigError


def is_remote(path: str) -> bool:
    return "://" in path


def open_file(path: str) -> IO[bytes]:
    """A binary file to read. Raises OSError."""
    if not is_remote(path):
        return open(path, "rb")
    files, remote_path = _filesystem(path)
    return files.open(remote_path, "rb")


def read_part(path: str, start: int = 0, size: int = -1) -> bytes:
    """`size` bytes from `start`; -1 reads to the end. Raises OSError."""
    with open_file(path) as file:
        try:
            file.seek(start)
            return file.read(size)
        except ValueError as error:  # fsspec's, of a server that cannot give a part of a file
            raise OSError(str(error)) from error


def matching_files(pattern: str) -> dict[str, tuple]:
    """The files that match, by path, each with values that change when the file does. Raises ConfigError."""
    if is_remote(pattern):
        files, _ = _filesystem(pattern)
        return {files.unstrip_protocol(path): (files.ukey(path),) for path in sorted(files.glob(pattern))}

    path = Path(pattern).expanduser()
    matches = {}
    if path.parent.is_dir():
        for file in sorted(path.parent.glob(path.name)):
            status = file.stat()
            matches[str(file)] = status.st_ino, status.st_size, status.st_mtime_ns
    return matches


def local_copy(path: str, folder: str) -> Path:
    """A local file's path; for a remote file, a copy in `folder`, downloaded at first use. Raises CacheError."""
    if not is_remote(path):
        return Path(path)
    import fsspec

    try:
        return Path(str(fsspec.open_local(f"filecache::{path}", filecache={"cache_storage": folder})))
    except (OSError, ValueError, ImportError) as error:
        raise CacheError(f"{path} cannot be read: {error}") from error


def _filesystem(path: str) -> tuple[Any, str]:
    """fsspec's file system, and the path in it. Raises ConfigError."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(path)
    except (ValueError, ImportError) as error:  # an unknown scheme, or one whose library is not installed
        raise ConfigError(f"{path} cannot be read: {error}") from error
