"""The rows of a split, as JSON can hold them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """A split's rows, read anew each time they are iterated, so that none need be kept in memory.

    `columns` are those of all rows, in the order in which they appear; a row that lacks one has
    `missing` there. `optional` are those that some row lacks.
    """

    read: Callable[[], Iterable[Row]]
    columns: tuple[str, ...]
    count: int
    missing: str | None = None
    optional: frozenset[str] = frozenset()

    @classmethod
    def counted(cls, read: Callable[[], Iterable[Row]], missing: str | None = None) -> "Rows":
        """Read all rows once. Raises whatever `read` raises for what it cannot read."""
        times: dict[str, int] = {}
        count = 0
        for row in read():
            for column in row:
                times[column] = times.get(column, 0) + 1
            count += 1
        optional = frozenset(column for column, number in times.items() if number < count)
        return cls(read, tuple(times), count, missing, optional)

    def with_nulls(self, columns: Iterable[str]) -> "Rows":
        """The same rows, null in those of `columns` that they have not."""
        nulls: Row = dict.fromkeys(column for column in columns if column not in self.columns)
        if not nulls:
            return self
        read = partial(self._with, nulls)
        return replace(self, read=read, columns=(*self.columns, *nulls))

    def _with(self, more: Row) -> Iterator[Row]:
        return ({**row, **more} for row in self)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Row]:
        for row in self.read():
            yield {column: row.get(column, self.missing) for column in self.columns}
