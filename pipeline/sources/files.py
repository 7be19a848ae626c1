"""Rows from local files: JSON lines, an array of JSON, CSV, TSV or Parquet."""

from pathlib import Path

from pipeline.config.data import FileData
from pipeline.errors import PipelineError, first_line
from pipeline.sources.formats.table import READERS, kind_of, rows_of
from pipeline.sources.rows import Rows


def file_rows(params: FileData, _: Path) -> dict[str, Rows]:
    """The rows of each split's file.

    Raises:
        PipelineError: when a file is missing, empty, of an unknown kind, unreadable, or has other
            columns than the training split.
    """
    files = {split: path for split, path in params.files.model_dump().items() if path is not None}
    splits = {split: read_file(Path(path), f"data.files.{split}") for split, path in files.items()}
    train = splits["train"]
    # A column without a name is mostly the index that a library wrote beside the data.
    needed = set(train.columns) - train.optional - {""}
    for split, rows in splits.items():
        missing = sorted(needed - set(rows.columns))
        if missing:
            raise PipelineError(
                f"data.files.{split}: '{files[split]}' lacks columns that the training split has: "
                f"{', '.join(missing)}"
            )
    return splits


def read_file(path: Path, key: str) -> Rows:
    """The rows of one file. Raises PipelineError, naming `key`, for what `file_rows` refuses."""
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
