"""Rows of any library's table as JSON can hold them."""

import math
from typing import Any

Row = dict[str, Any]


def plain_row(row: dict[Any, Any]) -> Row:
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
