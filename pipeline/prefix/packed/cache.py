"""Keys and values of packed rows while they are decoded."""

import torch

from pipeline.prefix.packed.backends import backend_for
from pipeline.prefix.packed.call import kind_of
from pipeline.prefix.packed.kernel.library import ROOM


class PackedCache:
    """Keys and values of every row's tokens, the prefix not among them.

    Args:
        lengths: tokens that the prefill keeps of each row.
        room: tokens that a row can grow by.
    """

    def __init__(self, lengths: list[int], room: int) -> None:
        self.counts = list(lengths)
        self.rows = list(range(len(lengths)))
        self._room = -(-(max(lengths) + room) // ROOM) * ROOM
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def prefill(
        self, layer: int, key: torch.Tensor, value: torch.Tensor, packed: list[int]
    ) -> None:
        """Keep the first tokens of each example of a packed row, `[num_kv_heads, tokens, dim]`."""
        heads, _, dim = key.shape
        keys = key.new_empty(len(packed), heads, dim, self._room)
        values = value.new_empty(len(packed), heads, self._room, dim)
        parts = zip(key.split(packed, 1), value.split(packed, 1), self.counts, strict=True)
        for row, (own_key, own_value, count) in enumerate(parts):
            keys[row, :, :, :count] = own_key[:, :count].transpose(1, 2)
            values[row, :, :count] = own_value[:, :count]
        self._layers[layer] = keys, values

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        prefix: tuple[torch.Tensor, torch.Tensor] | None,
        scaling: float,
    ) -> torch.Tensor:
        """Append a token a row, `[num_kv_heads, rows, dim]`, and attend to all of its row."""
        keys, values = self._layers[layer]
        rows = torch.tensor(self.rows)
        at = torch.tensor([self.counts[row] for row in self.rows])
        keys[rows, :, :, at] = key.transpose(0, 1)
        values[rows, :, at] = value.transpose(0, 1)
        prefix_key, prefix_value = (t.float() for t in prefix or (key[:, :0], value[:, :0]))
        counts = (at + 1).tolist()
        decode = backend_for(kind_of(query, key, value)).decode
        assert decode is not None, "`why_not_packed(decoding=True)` was asked before"
        return decode(query, prefix_key, prefix_value, keys, values, self.rows, counts, scaling)

    def advance(self) -> None:
        """Count the token that every layer has appended."""
        for row in self.rows:
            self.counts[row] += 1
