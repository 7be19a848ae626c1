"""Keys and values of packed rows while they are decoded."""

import torch

from pipeline.prefix.packed.backends import backend_for
from pipeline.prefix.packed.call import PLAIN, Terms, kind_of
from pipeline.prefix.packed.layer_cache import LayerCache


class PackedCache:
    """Keys and values of every row's tokens, the prefix not among them.

    Args:
        lengths: tokens that the prefill keeps of each row.
        room: tokens that a row can grow by.
    """

    def __init__(self, lengths: list[int], room: int) -> None:
        self.counts = list(lengths)
        self.rows = list(range(len(lengths)))
        self._room = max(lengths) + room
        self._layers: dict[int, LayerCache] = {}

    def prefill(
        self, layer: int, key: torch.Tensor, value: torch.Tensor, packed: list[int]
    ) -> None:
        """Keep the first tokens of each example of a packed row, `[num_kv_heads, tokens, dim]`."""
        backend = backend_for(kind_of(key, value))
        self._layers[layer] = backend.cache(key, value, packed, self.counts, self._room)

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
