"""A layer of a prefix's cache whose attention chooses among the keys by an index."""

import torch
from transformers.cache_utils import DynamicIndexedLayer

from pipeline.prefix.caches import tell_positions
from pipeline.prefix.injection.prefix_layer import Pair, PrefixLayer, joined

_BUFFER = 2


class IndexLayer(PrefixLayer, DynamicIndexedLayer):
    """One layer: as `PrefixLayer`, with the prefix's index keys before those of the input's tokens.

    An indexer scores every key by its index key, and attention sees the best alone (DeepSeek
    Sparse Attention). What is chosen takes no gradient, so index keys are given, never trained.

    Args:
        prefix: keys and values; None in a layer that attends to another one's.
        index: index keys `[p, ..., dim]`.
        growing: whether to keep those of the input's tokens.
        axes: in how many dimensions the model keeps the positions of index keys here; 0 for none.
    """

    indexer_keys: torch.Tensor | None
    indexer_position_ids: torch.Tensor | None

    def __init__(
        self, prefix: Pair | None, index: torch.Tensor, growing: bool, axes: int = 0
    ) -> None:
        super().__init__(prefix or _none(index), growing)
        self.index = index.movedim(0, -2)
        self._axes = axes
        self._buffers.append(None)

    def begin(self, rows: int) -> None:
        """Say that a forward pass of so many rows begins: the prefix's positions stand first."""
        if self._axes and self.indexer_position_ids is None:
            tell_positions(self, self._axes, rows, self.prefix_length, self.index.device)

    def update_indexer(self, indexer_key_states: torch.Tensor) -> torch.Tensor:
        """Index keys `[batch, ..., p + tokens, dim]` of the prefix and of all tokens so far."""
        new = indexer_key_states.detach()
        if self.indexer_keys is None:
            new = self._after_prefix(self.index, new)
        if not self.growing:
            return new
        kept = new.new_empty(0) if self.indexer_keys is None else self.indexer_keys
        self.indexer_keys = self._appended(_BUFFER, kept, new)
        self.is_indexer_initialized = True
        return self.indexer_keys

    # What MiniMax M3 calls it.
    update_index = update_indexer

    def join(
        self, parts: list[PrefixLayer], leading: list[int], places: torch.Tensor, at: int
    ) -> None:
        """Take what layers of groups of rows hold, index keys and their positions too."""
        super().join(parts, leading, places, at)
        keys = [getattr(part, "indexer_keys", None) for part in parts]
        if held := [key for key in keys if key is not None]:
            self.indexer_keys = joined(held, leading, places, at)
            self.is_indexer_initialized = True
        positions = [getattr(part, "indexer_position_ids", None) for part in parts]
        if told := [axes for axes in positions if axes is not None]:
            # [axes, rows, tokens]: as if rows came first, and each position were a vector.
            rows_first = [axes.movedim(0, -1) for axes in told]
            self.indexer_position_ids = joined(rows_first, leading, places, at).movedim(-1, 0)

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens, a negative number of them."""
        index = self.indexer_keys
        super().crop(tokens_to_remove)
        if tokens_to_remove and index is not None:
            self.indexer_keys = index[..., :tokens_to_remove, :]


def _none(index: torch.Tensor) -> Pair:
    empty = index.new_empty(0, len(index), 0)
    return empty, empty
