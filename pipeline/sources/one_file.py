"""Rows of one local file: JSON lines, an array of JSON, CSV, TSV or Parquet."""

from pathlib import Path

from pipeline.errors import PipelineError, first_line
from pipeline.sources.formats.table import READERS, kind_of, rows_of
from pipeline.sources.rows import Rows


def read_file(path: Path, key: str) -> Rows:
    """The rows of one file.

    Raises PipelineError, naming `key`, when it is missing, empty, of an unknown kind or unreadable.
    """
    kind = kind_of(path)
    if kind not in READERS:
        raise PipelineError(
            f"{key}: '{path}' is none of {', '.join(READERS)}; convert it to one of these"
        )
    if path.is_dir():
        raise PipelineError(f"{key}: '{path}' is a folder; name a file of it")
    try:
        rows = rows_of([path], kind)
    except FileNotFoundError as error:
        raise PipelineError(f"{key}: there is no file '{path}'") from error
    except MemoryError:
        raise
    except Exception as error:  # each format's library raises kinds of its own
        raise PipelineError(
            f"{key}: '{path}' is no readable {kind} file: {first_line(error)}"
        ) from error
    if not rows.count:
        raise PipelineError(f"{key}: '{path}' holds no rows")
    if not rows.columns:
        raise PipelineError(f"{key}: '{path}' holds empty rows alone")
    return rows
