"""The kinds of data files, by suffix."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.sources.formats.csv_rows import csv_rows
from pipeline.sources.formats.json_rows import json_rows
from pipeline.sources.formats.parquet_rows import parquet_rows
from pipeline.sources.formats.text import COMPRESSED
from pipeline.sources.rows import Row, Rows

READERS: dict[str, Callable[..., Iterator[Row]]] = {
    ".jsonl": json_rows,
    ".ndjson": json_rows,
    ".json": partial(json_rows, one_object_is_a_row=False),
    ".csv": csv_rows,
    ".tsv": partial(csv_rows, delimiter="\t"),
    ".parquet": parquet_rows,
}
_OF_TEXT = (".csv", ".tsv")


def kind_of(path: Path) -> str:
    """The suffix that says what a file holds, without that of its compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        inner = suffixes[-2] if len(suffixes) > 1 else ""
        # Parquet is compressed inside, and cannot be read from within another compression.
        return f"{inner}{suffixes[-1]}" if inner in ("", ".parquet") else inner
    return suffixes[-1] if suffixes else ""


def rows_of(paths: list[Path], kind: str, **options: Any) -> Rows:
    """The rows of files of one kind, one file after another, all of which are read once.

    `options` are the reader's own. Raises ValueError, or an error of the format's library, for what
    cannot be read.
    """
    read = partial(READERS[kind], **options)
    missing = "" if kind in _OF_TEXT else None
    return Rows.counted(lambda: (row for path in paths for row in read(path)), missing)
