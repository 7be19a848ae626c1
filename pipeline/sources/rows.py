"""The rows of a split, as JSON can hold them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """A split's rows, read anew each time they are iterated, so that none need be kept in memory.

    `columns` are those of all rows, in the order in which they appear; a row that lacks one has
    `missing` there.
    """

    read: Callable[[], Iterable[Row]]
    columns: tuple[str, ...]
    count: int
    missing: str | None = None

    @classmethod
    def counted(cls, read: Callable[[], Iterable[Row]], missing: str | None = None) -> "Rows":
        """Read all rows once. Raises whatever `read` raises for what it cannot read."""
        columns: dict[str, None] = {}
        count = 0
        for row in read():
            columns.update(dict.fromkeys(row))
            count += 1
        return cls(read, tuple(columns), count, missing)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Row]:
        for row in self.read():
            yield {column: row.get(column, self.missing) for column in self.columns}
