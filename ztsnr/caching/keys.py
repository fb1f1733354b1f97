"""Keys of what a cache holds: hashes of all that an entry depends on. Part of the format, as are the names in them.

A setting's text in a key is that of 0de1f9a, whatever its class and its fields are called since.
"""

import hashlib

FORMAT = 2
"""Of shards and indices, and of the code that decodes and encodes. Raising it encodes everything again."""


class KeyText:
    """A text that stands in a key as it is, without quotes."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def key_text(name: str, **values: object) -> KeyText:
    """name(field=value, ...)"""
    return KeyText(f"{name}({', '.join(f'{field}={value!r}' for field, value in values.items())})")


def hashed(*parts: object) -> bytes:
    """16 bytes that change with any of the parts: values whose repr() never changes, and KeyText."""
    return hashlib.blake2b(repr((FORMAT, *parts)).encode(), digest_size=16).digest()
