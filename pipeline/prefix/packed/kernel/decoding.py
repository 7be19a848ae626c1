"""A layer's cache in the layout of the CPU's kernel."""

import torch

from pipeline.prefix.packed.call import PLAIN, Tensor, Terms
from pipeline.prefix.packed.kernel.library import ROOM, KernelPrefix, attention_to_cache


class KernelCache:
    """A `pipeline.prefix.packed.layer_cache.LayerCache` that the CPU's kernel attends to."""

    def __init__(
        self, key: Tensor, value: Tensor, packed: list[int], kept: list[int], room: int
    ) -> None:
        heads, _, dim = key.shape
        room = -(-room // ROOM) * ROOM
        self._keys = key.new_empty(len(packed), heads, dim, room)
        self._values = value.new_empty(len(packed), heads, room, dim)
        parts = zip(key.split(packed, 1), value.split(packed, 1), kept, strict=True)
        for row, (own_key, own_value, count) in enumerate(parts):
            self._keys[row, :, :, :count] = own_key[:, :count].transpose(1, 2)
            self._values[row, :, :count] = own_value[:, :count]
        self._prefix: KernelPrefix | None = None

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
        at = torch.tensor(rows), torch.tensor(counts)
        self._keys[at[0], :, :, at[1]] = key.transpose(0, 1)
        self._values[at[0], :, at[1]] = value.transpose(0, 1)
        if self._prefix is None:
            self._prefix = KernelPrefix(query, *(prefix or (key[:, :0], value[:, :0])))
        states = query, self._prefix, self._keys, self._values
        return attention_to_cache(*states, rows, [count + 1 for count in counts], scaling, terms)
