"""A layer of a prefix's cache that attends to the prefix."""

from typing import Any

import torch

from pipeline.prefix.injection.growing import GrowingLayer

Pair = tuple[torch.Tensor, torch.Tensor]


class PrefixLayer(GrowingLayer):
    """One layer: the prefix, and the keys and values of the input's tokens after it.

    Nothing is ever dropped: on sliding-window layers the mask alone hides what has left the
    window. A cache that grows keeps the prefix with each row's tokens, so that a step of decoding
    appends to one tensor; one that does not (training) never keeps a copy of it.
    """

    def __init__(self, prefix: Pair, growing: bool) -> None:
        super().__init__()
        self.prefix = prefix
        self.growing = growing
        self.order: torch.Tensor | None = None

    @property
    def prefix_length(self) -> int:
        """Virtual tokens."""
        return int(self.prefix[0].shape[-2])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Pair:
        """Keys and values `[batch, num_kv_heads, p + tokens, head_dim]` to attend to."""
        if not (self.growing and self.is_initialized):
            key_states = self._after_prefix(self.prefix[0], key_states)
            value_states = self._after_prefix(self.prefix[1], value_states)
        if not self.growing:
            return key_states, value_states
        updated: Pair = super().update(key_states, value_states)
        return updated

    def join(
        self, parts: "list[PrefixLayer]", leading: list[int], places: torch.Tensor, at: int
    ) -> None:
        """Take the keys and values of groups of rows: `PrefixCache.join`.

        So many columns of zeros as `leading` has of a group come in before key `at`.
        """
        if not all(part.is_initialized for part in parts):
            return
        keys, values = (
            joined([getattr(part, name) for part in parts], leading, places, at)
            for name in ("keys", "values")
        )
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def get_seq_length(self) -> int:
        """Tokens kept, the prefix not counted."""
        return int(super().get_seq_length()) - self.prefix_length if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The number of keys a query of this forward pass meets, prefix included; no offset."""
        return self.prefix_length + self.get_seq_length() + query_length, 0

    def _after_prefix(self, prefix: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        # To the device, too, of a layer of a model that is spread over several.
        expanded = prefix.to(states.device, states.dtype).expand(states.shape[0], *prefix.shape)
        joined = torch.cat([expanded, states], dim=-2)
        if self.order is None:
            return joined
        order = self.order.to(joined.device)
        order = order.view(len(order), *[1] * (joined.ndim - 3), -1, 1)
        return joined.gather(-2, order.expand_as(joined))


def joined(
    parts: list[torch.Tensor], leading: list[int], places: torch.Tensor, at: int
) -> torch.Tensor:
    """Rows of groups `[rows, ..., tokens, dim]` as those of a batch, zeros in padding's place."""
    whole = torch.cat(
        [
            torch.cat(
                [part[..., :at, :], _zeros(part, padding), part[..., at:, :]],
                dim=-2,
            )
            for part, padding in zip(parts, leading, strict=True)
        ]
    )
    return whole[places.to(whole.device)]


def _zeros(part: torch.Tensor, columns: int) -> torch.Tensor:
    return part.new_zeros(*part.shape[:-2], columns, part.shape[-1])
