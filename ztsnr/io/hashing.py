"""Hashes by which contents are recognised: in names of files, in keys of caches, in splits of data."""

import hashlib


def content_hash(*parts: bytes, size: int) -> bytes:
    """BLAKE2b of the parts one after the other; `size` bytes."""
    state = hashlib.blake2b(digest_size=size)
    for part in parts:
        state.update(part)
    return state.digest()
