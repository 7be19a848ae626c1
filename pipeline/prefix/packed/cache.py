"""Keys and values of packed rows while they are decoded."""

from collections.abc import Sequence

import torch

from pipeline.prefix.packed.backends import backend_for
from pipeline.prefix.packed.call import PLAIN, Terms, kind_of
from pipeline.prefix.packed.layer_cache import LayerCache


class PackedCache:
    """Keys and values of every row's tokens after one prefix, which is not among them.

    Args:
        lengths: tokens that the prefill keeps of each row.
        room: tokens that every row can grow by, or each.

    Attributes:
        rows: the numbers of the rows that go on, ascending. Others may be taken out, and are
            dropped with the next token, or by `leave` at once.
        counts: of each row the tokens that it has so far.
    """

    def __init__(self, lengths: Sequence[int], room: int | Sequence[int]) -> None:
        self.rows = list(range(len(lengths)))
        self.counts = dict(enumerate(lengths))
        rooms = [room] * len(lengths) if isinstance(room, int) else room
        self._rooms = [length + own for length, own in zip(lengths, rooms, strict=True)]
        self._layers: dict[int, LayerCache] = {}
        self._next = len(lengths)

    def prefill(
        self, layer: int, key: torch.Tensor, value: torch.Tensor, packed: list[int]
    ) -> None:
        """Keep the first tokens of each example of a packed row, `[num_kv_heads, tokens, dim]`."""
        backend = backend_for(kind_of(key, value))
        kept = list(self.counts.values())
        self._layers[layer] = backend.cache(key, value, packed, kept, self._rooms)

    def join(self, other: "PackedCache") -> list[int]:
        """Take the rows of another cache after the same prefix; returns their numbers here.

        The other is used up. This one has been prefilled, but its rows may all have gone.
        """
        numbers = list(range(self._next, self._next + len(other.rows)))
        self._next += len(numbers)
        self.rows += numbers
        self.counts |= zip(numbers, other.counts.values(), strict=True)
        for layer, states in self._layers.items():
            states.join(other._layers[layer], numbers)
        return numbers

    def leave(self, rows: Sequence[int]) -> None:
        """Let rows go, and what is kept of them."""
        for row in rows:
            self.rows.remove(row)
            del self.counts[row]
        for states in self._layers.values():
            states.leave(rows)

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        prefix: tuple[torch.Tensor, torch.Tensor] | None,
        scaling: float,
        terms: Terms = PLAIN,
    ) -> torch.Tensor:
        """Append a token a row, `[num_kv_heads, rows, dim]`, and attend to all of its row.

        The prefix is that of the first token, which is kept on the layer's device.
        """
        counts = [self.counts[row] for row in self.rows]
        states = query, key, value, prefix
        return self._layers[layer].attend(*states, self.rows, counts, scaling, terms)

    def advance(self) -> None:
        """Count the token that every layer has appended."""
        for row in self.rows:
            self.counts[row] += 1
