"""A transformers cache that holds a prefix before the tokens of the input.

The masks of a forward pass come from the cache's sizes, so that transformers itself builds them:
causal, padded and sliding-window masks are right with the prefix at positions 0 to p-1.
"""

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from pipeline.prefix.kv import KVPrefix


class PrefixLayer(DynamicLayer):
    """One layer: the shared prefix, and the keys and values of the input's tokens after it.

    The prefix is never copied for a batch that the layer keeps, and never dropped: on
    sliding-window layers the mask alone hides what has left the window.
    """

    def __init__(self, key: torch.Tensor, value: torch.Tensor, growing: bool) -> None:
        super().__init__()
        self.prefix_key = key
        self.prefix_value = value
        self.growing = growing

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values `[batch, num_kv_heads, p + tokens, head_dim]` to attend to."""
        if self.growing:
            key_states, value_states = super().update(key_states, value_states)
        batch = key_states.shape[0]
        prefix_key = self.prefix_key.to(key_states.dtype).expand(batch, -1, -1, -1)
        prefix_value = self.prefix_value.to(value_states.dtype).expand(batch, -1, -1, -1)
        return (
            torch.cat([prefix_key, key_states], dim=-2),
            torch.cat([prefix_value, value_states], dim=-2),
        )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The number of keys a query of this forward pass meets, prefix included; no offset."""
        return self.prefix_key.shape[-2] + self.get_seq_length() + query_length, 0


class PrefixCache(Cache):
    """The cache of one forward pass (`growing=False`) or of one generation (`growing=True`).

    `generate` slices its input by `get_seq_length`, and so must not see the prefix; the model's
    own forward computes positions from it, and so must. `inside_forward` says who is asking.
    """

    def __init__(self, kv: KVPrefix, growing: bool) -> None:
        pairs = zip(kv.keys, kv.values, strict=True)
        super().__init__(layers=[PrefixLayer(key, value, growing) for key, value in pairs])
        self.prefix_length = len(kv)
        self.inside_forward = False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before the next query: the input's so far, and inside the model the prefix too."""
        tokens = int(super().get_seq_length(layer_idx))
        return tokens + self.prefix_length if self.inside_forward else tokens
