"""Files here and elsewhere: what has a scheme, such as s3://, is read through fsspec."""

from pathlib import Path

from ztsnr.core.errors import CacheError, ConfigError


def is_elsewhere(place: str) -> bool:
    return "://" in place


def read_part(place: str, start: int = 0, size: int = -1) -> bytes:
    """`size` bytes from `start`; -1 is all that follow. Raises OSError."""
    with opened(place) as file:
        try:
            file.seek(start)
            return file.read(size)
        except ValueError as error:  # fsspec's, of a server that cannot give a part of a file
            raise OSError(str(error)) from error


def matching(pattern: str) -> dict[str, tuple]:
    """Files that a pattern names, by name, each with what changes when it does. Raises ConfigError."""
    if is_elsewhere(pattern):
        files, _ = _filesystem(pattern)
        return {files.unstrip_protocol(path): (files.ukey(path),) for path in sorted(files.glob(pattern))}
    path = Path(pattern).expanduser()
    found = sorted(path.parent.glob(path.name)) if path.parent.is_dir() else []
    return {str(file): (status.st_ino, status.st_size, status.st_mtime_ns) for file in found if (status := file.stat())}


def local(place: str, copies: str) -> Path:
    """The file itself, or a copy in the folder `copies`, made when it is first asked for. Raises CacheError."""
    if not is_elsewhere(place):
        return Path(place)
    import fsspec

    try:
        return Path(fsspec.open_local(f"filecache::{place}", filecache={"cache_storage": copies}))
    except (OSError, ValueError, ImportError) as error:
        raise CacheError(f"{place} cannot be read: {error}") from error


def opened(place: str):
    """A binary file to read. Raises OSError."""
    if not is_elsewhere(place):
        return open(place, "rb")
    files, path = _filesystem(place)
    return files.open(path, "rb")


def _filesystem(place: str):
    import fsspec

    try:
        return fsspec.core.url_to_fs(place)
    except (ValueError, ImportError) as error:  # an unknown scheme, or one whose library is not installed
        raise ConfigError(f"{place} cannot be read: {error}") from error
