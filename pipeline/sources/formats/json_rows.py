"""Rows of JSON: one object a line, objects one after another, or an array of objects."""

import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.sources.formats.text import lines_of, opened
from pipeline.sources.rows import Row

_SPACE = re.compile(r"[ \t\r\n]*")
_NOTHING = object()


class _NoJsonError(ValueError):
    """What stands here is no JSON value."""


def json_rows(path: Path, one_object_is_a_row: bool = True) -> Iterator[Row]:
    """The objects of a file: integers with every digit, and of each row the keys that it has.

    Not a number, for which JSON has no form, is null, and infinity the text `inf`. Without
    `one_object_is_a_row` a file of one object that holds a table is refused. Raises ValueError
    naming the line of what is no JSON, and the row that is no object.
    """
    with opened(path) as stream:
        values = _values(lines_of(stream), one_object_is_a_row)
        for number, value in enumerate(values, start=1):
            if not isinstance(value, dict):
                raise ValueError(f"row {number} is no object but {json.dumps(value)[:40]}")
            yield value


def _values(lines: Iterator[str], one_object_is_a_row: bool) -> Iterator[Any]:
    numbered = enumerate(lines, start=1)
    blank, number, line = "", 0, ""
    while not line.strip():
        blank += line
        number, line = next(numbered, (0, "end"))
    if not number:
        return
    if line.lstrip().startswith("["):
        yield from _array(blank + line + "".join(text for _, text in numbered))
        return
    try:
        values = iter([_only_value(line, number)])
    except _NoJsonError:
        # An object may stand on several lines.
        values = _one_after_another(blank + line + "".join(text for _, text in numbered))
    following = (_only_value(line, number) for number, line in numbered if line.strip())
    values = itertools.chain(values, following)
    first, second = next(values), next(values, _NOTHING)
    if second is _NOTHING:
        if not one_object_is_a_row:
            _refuse_table(first)
        yield first
    else:
        yield from itertools.chain([first, second], values)


def _array(text: str) -> Iterator[Any]:
    """The items of an array, decoded one by one."""
    at = _after_space(text, text.index("[") + 1)
    ended = text.startswith("]", at)
    while not ended:
        value, at = _value(text, at)
        yield value
        at = _after_space(text, at)
        ended = text.startswith("]", at)
        if not ended:
            if not text.startswith(",", at):
                raise _NoJsonError(f"line {_line(text, at)}: neither ',' nor ']' follows an item")
            at = _after_space(text, at + 1)
    at = _after_space(text, at + 1)
    if at < len(text):
        raise _NoJsonError(f"line {_line(text, at)}: more follows the array")


def _one_after_another(text: str) -> Iterator[Any]:
    at = _after_space(text, 0)
    while at < len(text):
        value, at = _value(text, at)
        yield value
        at = _after_space(text, at)


def _only_value(line: str, number: int) -> Any:
    line = line.rstrip()
    value, end = _value(line, _after_space(line, 0), number)
    if end < len(line):
        raise _NoJsonError(f"line {number}, column {end + 1}: more follows the value")
    return value


def _value(text: str, at: int, first_line: int = 1) -> tuple[Any, int]:
    """The value at `at`, and where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, at)
        if "\\ud" in text[at:end].lower():
            # Half a character, which no file can hold as UTF-8, can be written as an escape.
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise _NoJsonError(f"line {line}, column {error.colno}: {error.msg}") from error
    except UnicodeEncodeError as error:
        where = first_line + _line(text, at) - 1
        half = error.object[error.start]
        raise ValueError(f"line {where}: a text holds half a character ({half!r})") from error
    except RecursionError as error:
        where = first_line + _line(text, at) - 1
        raise ValueError(f"line {where}: its values are nested too deeply") from error
    except ValueError as error:
        where = first_line + _line(text, at) - 1
        raise ValueError(f"line {where}: {error}") from error
    return value, end


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _refuse_table(value: Any) -> None:
    """Refuse what may be a table's columns, or an object around its rows, as a row of its own."""
    if not isinstance(value, dict) or not value:
        return
    inner = [
        name
        for name, item in value.items()
        if isinstance(item, list) and item and all(isinstance(row, dict) for row in item)
    ]
    if inner or all(isinstance(item, dict | list) for item in value.values()):
        what = f"the rows may be its '{inner[0]}'" if inner else "it may hold columns"
        raise ValueError(
            f"it holds one object ({what}); save the rows as an array of objects or one object a "
            "line, and end the name of a file of one row in .jsonl"
        )


def _object(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key '{twice}' twice")
    return row


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is above all that a float holds; quote it")
    return value


def _constant(name: str) -> str | None:
    return None if name == "NaN" else str(float(name))


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)
