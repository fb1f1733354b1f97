"""Hashes of contents, for file names, cache keys and splits of data."""

import hashlib


def content_hash(*parts: bytes, size: int) -> bytes:
    """BLAKE2b of the concatenated parts, `size` bytes long."""
    state = hashlib.blake2b(digest_size=size)
    for part in parts:
        state.update(part)
    return state.digest()
