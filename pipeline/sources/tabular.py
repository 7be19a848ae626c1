"""Rows from local files or from a data set of the Hugging Face Hub."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import load_dataset
from datasets.exceptions import DatasetNotFoundError

from pipeline.config.data import FileData, HubData
from pipeline.errors import PipelineError, first_line

Row = dict[str, Any]

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


def hub_rows(params: HubData) -> dict[str, list[Row]]:
    """The rows of each split of a Hub data set, at its pinned revision; no code of it runs.

    Raises:
        PipelineError: when the data set or a split cannot be had.
    """
    splits = {}
    for split, name in params.splits.model_dump().items():
        if name is None:
            continue
        try:
            table = load_dataset(params.id, params.name, split=name, revision=params.revision)
        except DatasetNotFoundError as error:
            raise PipelineError(
                f"data.id: the Hugging Face Hub has no '{params.id}' at revision "
                f"'{params.revision}', or it is private"
            ) from error
        except (OSError, ValueError, RuntimeError) as error:
            raise PipelineError(
                f"data.splits.{split}: cannot load '{name}' of '{params.id}': {first_line(error)}"
            ) from error
        splits[split] = [_plain(row) for row in table]
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
    return [_plain(row) for row in table.to_dict("records")]


def _plain(row: dict[Any, Any]) -> Row:
    """Columns as JSON can hold them."""
    return {str(name): _as_json(value) for name, value in row.items()}


def _as_json(value: Any) -> Any:
    """Arrays of Parquet as lists, numpy's numbers as Python's, what JSON has no form for as text.

    Not a number and not a time both stand for a cell without a value: null.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else (None if value != value else str(value))
        case list() | tuple():
            return [_as_json(item) for item in value]
        case dict():
            return {str(key): _as_json(item) for key, item in value.items()}
        case bytes():
            return value.decode("utf-8", errors="replace")
        case _:
            text = str(value)
            return None if text in ("NaT", "<NA>") else text
