"""Rows of cells set apart by commas or tabs."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.sources.formats.text import lines_of, opened
from pipeline.sources.rows import Row

_LARGEST_CELL = 2**31 - 1
_OTHER_DELIMITERS = ";\t|,"


def csv_rows(path: Path, delimiter: str = ",") -> Iterator[Row]:
    """Every cell as the text that the file holds: `NA` and `007` stay, an empty cell is empty.

    The first line names the columns; quotes are those of RFC 4180; blank lines are skipped, and so
    are empty cells of a column without a name, which a delimiter at the end of a line makes.
    Raises ValueError naming the line with more or fewer cells than columns, or with a quote that
    does not end, and a name that two columns have.
    """
    csv.field_size_limit(_LARGEST_CELL)
    with opened(path) as stream:
        table = csv.reader(lines_of(stream), delimiter=delimiter, strict=True)
        try:
            yield from _rows((cells for cells in table if cells), table)
        except csv.Error as error:
            reason = str(error)
            if reason.startswith("new-line character"):
                reason = "a carriage return alone; save the file with lines that end in LF or CR LF"
            raise ValueError(f"line {table.line_num}: {reason}") from error


def _rows(lines: Iterator[list[str]], table: Any) -> Iterator[Row]:
    names = next(lines, [])
    _check_names(names, table.dialect.delimiter)
    for cells in lines:
        if any(names[len(cells) :]) or any(cells[len(names) :]):
            raise ValueError(
                f"line {table.line_num} has {len(cells)} cells and the first line "
                f"{len(names)} names; quote a cell that holds a delimiter or a line's end"
            )
        row: Row = {}
        for name, cell in zip(names, cells, strict=False):
            if name == "" and cell == "":
                continue
            if name in row:
                raise ValueError(f"line {table.line_num} has two cells without a column's name")
            row[name] = cell
        yield row


def _check_names(names: list[str], delimiter: str) -> None:
    for name in names:
        if name and names.count(name) > 1:
            raise ValueError(f"it has two columns '{name}'; rename one")
    for mark in _OTHER_DELIMITERS:
        if len(names) == 1 and mark != delimiter and mark in names[0]:
            raise ValueError(
                f"its one column is '{names[0]}', which {mark!r} seems to divide; save it with "
                f"{delimiter!r} between cells"
            )
