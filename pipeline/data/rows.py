"""The rows of a tokenized split, read from its mapped Arrow files when they are asked for.

A list of lists of whole numbers takes some 36 bytes a token, an Arrow file on disk 4, of which the
operating system keeps in memory what it has room for. Reading one row through `datasets` costs more
than padding it, so that rows are cut out of the files' own buffers here.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, overload

import numpy as np
import pyarrow as pa
from datasets import Dataset

from pipeline.data.batching import Example

Cell = Callable[[int], Any]


class TokenizedRows(Sequence[Example]):
    """Examples of a split as `Dataset.to_list` gives them, none of which is held in memory.

    A list of lists that are all of one length is an array of numpy's, `[rows, length]`.

    `indices` are the places of the rows in the files, in the order of the split; all for None. With
    `without_beginning` each row goes on without the tokens that begin a text (its `beginning`).
    """

    def __init__(
        self,
        split: Dataset,
        columns: Sequence[str] | None = None,
        without_beginning: bool = False,
    ) -> None:
        self.column_names = list(columns or split.column_names)
        self._split, self._without_beginning = split, without_beginning
        self._indices = None
        if split._indices is not None:
            self._indices = split._indices.column(0).to_numpy()
        names = {*self.column_names, *(["beginning"] if without_beginning else [])}
        self._columns = {name: _Column(split.data.column(name)) for name in names}

    def select_columns(self, names: Sequence[str]) -> "TokenizedRows":
        """The same rows with these columns alone."""
        return TokenizedRows(self._split, names, self._without_beginning)

    def select(self, indices: Sequence[int]) -> "TokenizedRows":
        """The rows at these places, in that order."""
        chosen = self._split.select(indices)
        return TokenizedRows(chosen, self.column_names, self._without_beginning)

    @property
    def tokens(self) -> np.ndarray:
        """The tokens of each row, input and target, int64 `[rows]`."""
        return self._numbers(_Column.lengths, "input_ids") - self._left_out

    @property
    def target_starts(self) -> np.ndarray:
        """Where in each row its target begins, int64 `[rows]`."""
        return self._numbers(_Column.values, "target_start") - self._left_out

    @property
    def _left_out(self) -> np.ndarray | int:
        return self._numbers(_Column.values, "beginning") if self._without_beginning else 0

    def __len__(self) -> int:
        return len(self._split)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        place = range(len(self))[index]
        if self._indices is not None:
            place = int(self._indices[place])
        row = {name: self._columns[name][place] for name in self.column_names}
        if self._without_beginning:
            _leave_out(row, self._columns["beginning"][place])
        return row

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def _numbers(self, of: "Callable[[_Column], np.ndarray]", name: str) -> np.ndarray:
        numbers = of(self._columns.get(name) or _Column(self._split.data.column(name)))
        return numbers if self._indices is None else numbers[self._indices]


def rows_of(split: "Dataset | TokenizedRows", columns: Sequence[str]) -> TokenizedRows:
    """A split's rows with these columns."""
    if isinstance(split, TokenizedRows):
        return split.select_columns(columns)
    return TokenizedRows(split, columns)


def _leave_out(row: dict[str, Any], count: int) -> None:
    if "input_ids" in row:
        row["input_ids"] = row["input_ids"][count:]
    if "target_start" in row:
        row["target_start"] -= count
    if "beginning" in row:
        row["beginning"] = 0
    if row.get("positions") is not None:
        row["positions"] = [position - count for position in row["positions"]]


class _Column:
    """A column in the chunks of its files, whose cells are Python's own values."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._chunks = column.chunks
        self._cells: dict[int, Cell] = {}
        self._ends = list(accumulate(len(chunk) for chunk in self._chunks))

    def __getitem__(self, place: int) -> Any:
        at = bisect_right(self._ends, place)
        if at not in self._cells:
            self._cells[at] = _cells(self._chunks[at])
        return self._cells[at](place - self._ends[at] + len(self._chunks[at]))

    def values(self) -> np.ndarray:
        """Whole numbers, int64."""
        return _joined(chunk.to_numpy() for chunk in self._chunks)

    def lengths(self) -> np.ndarray:
        """The lengths of lists, int64."""
        return _joined(np.diff(chunk.offsets.to_numpy()) for chunk in self._chunks)


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Whole numbers, one part after the other, int64; of no rows there is no part."""
    return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64, copy=False)


def _cells(chunk: pa.Array) -> Cell:
    """What gives a chunk's cells: of whole numbers and lists of them by numpy, without a copy."""
    if pa.types.is_integer(chunk.type) and not chunk.null_count:
        numbers = chunk.to_numpy()
        return lambda i: int(numbers[i])
    if _is_list_of_integers(chunk.type) and not (chunk.null_count or chunk.values.null_count):
        offsets, values = chunk.offsets.to_numpy(), chunk.values.to_numpy()
        return lambda i: values[offsets[i] : offsets[i + 1]].tolist()
    if _is_list_of_rows(chunk.type) and not chunk.null_count:
        width = chunk.type.value_type.list_size
        offsets, table = chunk.offsets.to_numpy(), chunk.values.flatten().to_numpy()
        table = table.reshape(-1, width)
        return lambda i: table[offsets[i] : offsets[i + 1]]
    return lambda i: chunk[i].as_py()


def _is_list_of_integers(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return is_list and pa.types.is_integer(kind.value_type)


def _is_list_of_rows(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return is_list and pa.types.is_fixed_size_list(kind.value_type)
