"""A layer's cache in the layout of the CPU's kernel."""

from collections.abc import Sequence

from pipeline.prefix.packed.call import PLAIN, Tensor, Terms
from pipeline.prefix.packed.kernel.library import (
    ROOM,
    KernelPrefix,
    addresses_of,
    attention_to_cache,
)


class KernelRow:
    """The keys and values of one row, of `[num_kv_heads, tokens, dim]` so far and up to `room`."""

    def __init__(self, key: Tensor, value: Tensor, room: int) -> None:
        heads, count, dim = key.shape
        self.room = -(-room // ROOM) * ROOM
        self.keys = key.new_empty(heads, dim, self.room)
        self.values = value.new_empty(heads, self.room, dim)
        self.keys[:, :, :count] = key.transpose(1, 2)
        self.values[:, :count] = value


class KernelRows:
    """Rows that are decoded together, put together once for all of their tokens."""

    def __init__(self, rows: Sequence[KernelRow]) -> None:
        self._held = list(rows)
        self.rooms = [row.room for row in rows]
        self.addresses = addresses_of([row.keys for row in rows], [row.values for row in rows])


class KernelCache:
    """A `pipeline.prefix.packed.layer_cache.LayerCache` that the CPU's kernel attends to."""

    def __init__(
        self, key: Tensor, value: Tensor, packed: list[int], kept: list[int], rooms: list[int]
    ) -> None:
        parts = zip(key.split(packed, 1), value.split(packed, 1), kept, rooms, strict=True)
        self._rows = {
            row: KernelRow(own_key[:, :count], own_value[:, :count], room)
            for row, (own_key, own_value, count, room) in enumerate(parts)
        }
        self._chosen: tuple[list[int], KernelRows] | None = None
        self._prefix: KernelPrefix | None = None

    def join(self, other: "KernelCache", numbers: list[int]) -> None:
        """Take the rows of another cache, which get these numbers here."""
        for number, row in zip(numbers, other._rows.values(), strict=True):
            self._rows[number] = row

    def leave(self, rows: Sequence[int]) -> None:
        """Let rows go."""
        for row in rows:
            self._rows.pop(row, None)
        self._chosen = None

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix: tuple[Tensor, Tensor] | None,
        rows: list[int],
        counts: list[int],
        scaling: float,
        terms: Terms = PLAIN,
    ) -> Tensor:
        """Append a token a row and attend to all of its row, and to the prefix."""
        if self._prefix is None:
            self._prefix = KernelPrefix(query, *(prefix or (key[:, :0], value[:, :0])))
        if self._chosen is None or self._chosen[0] != rows:
            self._rows = {row: self._rows[row] for row in rows}
            self._chosen = list(rows), KernelRows(list(self._rows.values()))
        states, chosen = (query, key, value, self._prefix), self._chosen[1]
        return attention_to_cache(*states, chosen.addresses, chosen.rooms, counts, scaling, terms)
