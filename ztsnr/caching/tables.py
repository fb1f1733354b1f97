"""Captions in tables beside the images: metadata.jsonl, metadata.csv (Hugging Face's ImageFolder) or parquet."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ztsnr.core.errors import ConfigError

TABLES = ("metadata.jsonl", "metadata.csv")
CAPTION_COLUMNS = ("text", "caption", "captions", "prompt")
"""Columns of captions, each a text or a list. The first that a table has is used."""


def read_tables(folder: Path, names: list[str]) -> dict[str, tuple[str, ...]]:
    """File name -> captions. Raises ConfigError with the table and the row."""
    captions: dict[str, tuple[str, ...]] = {}
    for name in sorted(names):
        path = folder / name
        for number, row in enumerate(_rows(path), start=1):
            file_name, texts = _file_and_texts(row, f"{path}, row {number}")
            captions[file_name] = captions.get(file_name, ()) + texts
    return captions


def _file_and_texts(row: Mapping[str, Any], source: str) -> tuple[str, tuple[str, ...]]:
    """A row's file name and captions. Raises ConfigError that begins with `source`."""
    file_name = row.get("file_name")
    column = next((column for column in CAPTION_COLUMNS if column in row), None)
    if not isinstance(file_name, str) or column is None:
        columns = f"file_name and one of {', '.join(CAPTION_COLUMNS)}"
        raise ConfigError(f"{source}, must have {columns}, but has {', '.join(map(str, row))}")

    value = row[column]
    if isinstance(value, list):
        texts = tuple(value)
    else:
        texts = (value,) if value else ()
    if not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{source}: {column} must be a text or a list of texts, got {value!r}")
    return file_name, texts


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        if path.suffix == ".parquet":
            yield from _parquet_rows(path)
        else:
            with open(path, encoding="utf-8-sig", newline="") as file:
                yield from csv.DictReader(file) if path.suffix == ".csv" else map(_json_row, file)
    except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds
        raise ConfigError(f"{path} cannot be read as a table of captions: {error}") from error


def _json_row(line: str) -> Mapping[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"{line.strip()[:60]!r} is not an object")
    return row


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    from pyarrow.parquet import ParquetFile

    for batch in ParquetFile(path).iter_batches():
        yield from batch.to_pylist()
