"""Rows of a Parquet file."""

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.sources.formats.arrow_rows import arrow_rows, check_columns
from pipeline.sources.rows import Row

_ROWS_AT_ONCE = 1024
_INDEX_OF_PANDAS = re.compile(r"__index_level_\d+__")


def parquet_rows(path: Path) -> Iterator[Row]:
    """The rows of a file; see `arrow_rows` for what becomes of a type.

    pandas' index is left out where it has no name. Raises ValueError or pyarrow's own errors for
    what is no Parquet file, and for a name that two columns have.
    """
    with pq.ParquetFile(path) as file:
        check_columns(file.schema_arrow)
        names = [n for n in file.schema_arrow.names if not _INDEX_OF_PANDAS.fullmatch(n)]
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
            yield from arrow_rows(batch.select(names))
