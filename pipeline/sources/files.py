"""Rows from local files: JSON lines, CSV or Parquet."""

from pathlib import Path

import pandas as pd

from pipeline.config.data import FileData
from pipeline.errors import PipelineError, first_line
from pipeline.sources.plain import Row, plain_row

_READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def file_rows(params: FileData) -> dict[str, list[Row]]:
    """The rows of each split's file.

    Raises:
        PipelineError: when a file is missing, empty, of an unknown kind, unreadable, or has other
            columns than the training split.
    """
    files = {split: path for split, path in params.files.model_dump().items() if path is not None}
    splits = {split: _read(Path(path), f"data.files.{split}") for split, path in files.items()}
    columns = set(splits["train"][0])
    for split, rows in splits.items():
        missing = sorted(columns - set(rows[0]))
        if missing:
            raise PipelineError(
                f"data.files.{split}: '{files[split]}' lacks columns that the training split has: "
                f"{', '.join(missing)}"
            )
    return splits


def _read(path: Path, key: str) -> list[Row]:
    kind = _READERS.get(path.suffix)
    if kind is None:
        raise PipelineError(
            f"{key}: '{path}' is none of {', '.join(_READERS)}; convert it to one of these"
        )
    try:
        if kind == "json":
            table = pd.read_json(path, lines=True, dtype=False)
        elif kind == "csv":
            # Everything is text: "NA" is a country code and "007" no number.
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
        else:
            table = pd.read_parquet(path)
    except FileNotFoundError as error:
        raise PipelineError(f"{key}: there is no file '{path}'") from error
    except UnicodeDecodeError as error:
        raise PipelineError(
            f"{key}: '{path}' is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error
    except (ValueError, OSError, ArithmeticError, AttributeError, LookupError) as error:
        raise PipelineError(
            f"{key}: '{path}' is no readable {path.suffix} file: {first_line(error)}"
        ) from error
    if table.empty:
        raise PipelineError(f"{key}: '{path}' holds no rows")
    table = table.dropna(how="all")
    if table.empty:
        raise PipelineError(f"{key}: '{path}' holds empty rows alone")
    return [plain_row(row) for row in table.to_dict("records")]
