"""A cache layer that appends in place."""

from typing import Any

import torch
from transformers import Cache, DynamicLayer

_ROOM = 64


class GrowingLayer(DynamicLayer):
    """Keys and values in buffers with room for the next tokens.

    transformers' own copies the whole cache for every token; here it is copied once in 64 tokens,
    and never where the number of tokens to come is said beforehand (`expected`).
    Numbers are the same. Where a gradient is needed nothing is written in place.
    """

    def __init__(self, expected: int = 0) -> None:
        super().__init__()
        self._expected = expected
        self._buffers: list[torch.Tensor | None] = [None, None]

    keys: torch.Tensor
    values: torch.Tensor

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values `[batch, num_kv_heads, tokens, head_dim]`, the new ones last."""
        if torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad):
            updated: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states)
            return updated
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._appended(0, self.keys, key_states)
        self.values = self._appended(1, self.values, value_states)
        return self.keys, self.values

    def _appended(self, which: int, kept: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        # What is not there yet has one dimension. What has no width (the rotated part of a key, in
        # a layer that rotates none) has tokens all the same.
        length = kept.shape[-2] if kept.ndim == new.ndim else 0
        end = length + new.shape[-2]
        buffer = self._buffers[which]
        # Rows that were selected, reordered or moved are no longer the buffer's.
        in_place = buffer is not None and length and kept.data_ptr() == buffer.data_ptr()
        # Whatever has no width is at one address, with other rows too.
        in_place = in_place and buffer is not None and buffer.shape[:-2] == new.shape[:-2]
        if buffer is None or not in_place or buffer.shape[-2] < end:
            size = self._expected if self._expected >= end else end + _ROOM
            buffer = new.new_empty(*new.shape[:-2], size, new.shape[-1])
            if length:
                buffer[..., :length, :] = kept
            self._buffers[which] = buffer
        buffer[..., length:end, :] = new
        return buffer[..., :end, :]


class GrowingCache(Cache):
    """A transformers cache of such layers, made as the model asks for them."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=GrowingLayer)
