"""Reading and writing the small files between stages: JSON lines, JSON and CSV."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import PipelineError
from pipeline.storage.atomic import atomic_file

if TYPE_CHECKING:
    import pandas as pd

Item = TypeVar("Item")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file. Raises PipelineError as `each_of_jsonl` does."""
    return list(each_of_jsonl(path))


def each_of_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON lines file one by one, none of which is held.

    Raises PipelineError when it is missing or no UTF-8 text, naming the line that is no object.
    """
    number = blank = 0
    for number, line in enumerate(_lines(path), start=1):
        if not line.rstrip("\n"):
            blank = blank or number
            continue
        # Blank lines are none at the end alone.
        yield _object(path, blank or number, "" if blank else line)
    if not number or blank == 1:
        _object(path, 1, "")


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`, of which the last may be shorter."""
    rest = iter(items)
    while portion := list(islice(rest, size)):
        yield portion


def lines_in(path: Path) -> int:
    """How many lines a file has. Raises PipelineError when it is missing."""
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except FileNotFoundError as error:
        raise _missing(path) from error


def _lines(path: Path) -> Iterator[str]:
    # Not splitlines(): text may hold U+2028, which ends no JSON line.
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from file
    except (FileNotFoundError, UnicodeDecodeError):
        # It says which byte of the whole file is wrong.
        read_text(path)
        raise


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except (TypeError, ValueError) as error:
        raise PipelineError(
            f"{path}, line {number}: is no JSON object; run its stage again"
        ) from error


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One object a line, UTF-8, keys in the order given; rows are written as they come."""
    with atomic_file(path) as aside, aside.open("wb") as file:
        for row in rows:
            file.write(_encoded(path, json.dumps(row, ensure_ascii=False) + "\n"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises PipelineError when the file is missing or is none."""
    try:
        return dict(json.loads(read_text(path)))
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise PipelineError(f"{path}: is no JSON object; run its stage again") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """An indented JSON object, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_csv(path: Path, texts: Iterable[str] = ()) -> "pd.DataFrame":
    """A table, the columns `texts` as strings even where they hold numbers alone.

    Raises PipelineError when the file is missing or is no CSV.
    """
    import pandas as pd

    try:
        return pd.read_csv(
            io.StringIO(read_text(path, newline=""), newline=""),
            # A name may be "NA" or "null"; only a cell without anything has no value.
            keep_default_na=False,
            na_values=[""],
            dtype=dict.fromkeys(texts, object),
            # A carriage return is a sign of a text: before Python 3.13 it is written unquoted.
            lineterminator="\n",
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise PipelineError(f"{path}: is no CSV table; run its stage again") from error


def write_csv(path: Path, table: "pd.DataFrame") -> None:
    """A table without its index; floats with all the digits that give them back."""
    write_text(path, table.to_csv(index=False))


def write_text(path: Path, text: str) -> None:
    """UTF-8 text, written aside and renamed into place."""
    content = _encoded(path, text)
    with atomic_file(path) as aside:
        aside.write_bytes(content)


def _encoded(path: Path, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise PipelineError(
            f"{path}: a text holds half a character ({text[error.start]!r}); mend the data"
        ) from error


def read_text(path: Path, newline: str | None = None) -> str:
    """UTF-8 text, without a byte-order mark; ends of lines as `open` has them by `newline`.

    Raises PipelineError when it is missing, a folder, or none.
    """
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            return file.read()
    except FileNotFoundError as error:
        raise _missing(path) from error
    except IsADirectoryError as error:
        raise PipelineError(f"{path}: is a folder, where a text file is asked for") from error
    except UnicodeDecodeError as error:
        raise PipelineError(
            f"{path}: is not UTF-8 text (byte {error.start}); a stage's file is made again by "
            "`dvc repro --force`"
        ) from error


def _missing(path: Path) -> PipelineError:
    return PipelineError(f"{path}: no such file; run `dvc repro`")
