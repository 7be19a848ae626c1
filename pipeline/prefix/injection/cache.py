"""The transformers `Cache` through which a prefix reaches every attention layer."""

from typing import Any

import torch
from transformers import Cache

from pipeline.prefix.injection.growing import GrowingLayer
from pipeline.prefix.kv import KVPrefix

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

    def get_seq_length(self) -> int:
        """Tokens kept, the prefix not counted."""
        return int(super().get_seq_length()) - self.prefix_length if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The number of keys a query of this forward pass meets, prefix included; no offset."""
        return self.prefix_length + self.get_seq_length() + query_length, 0

    def _after_prefix(self, prefix: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        # To the device, too, of a layer of a model that is spread over several.
        expanded = prefix.to(states.device, states.dtype).expand(states.shape[0], -1, -1, -1)
        joined = torch.cat([expanded, states], dim=-2)
        if self.order is None:
            return joined
        order = self.order.to(joined.device)
        return joined.gather(2, order[:, None, :, None].expand_as(joined))


class PrefixCache(Cache):
    """The cache of one forward pass (`growing=False`) or of one generation (`growing=True`).

    `generate` slices its input by `get_seq_length`, and so must not see the prefix; the model's
    own forward computes positions from it, and so must. `inside_forward` says who is asking.

    Args:
        kv: the prefix.
        shapes: `(num_kv_heads, head_dim)` of keys and values of every layer of the model. Layers
            that the prefix leaves out hold zeros, which the mask hides.
        growing: whether to keep the input's tokens.
    """

    def __init__(
        self,
        kv: KVPrefix,
        shapes: list[tuple[tuple[int, ...], tuple[int, ...]]],
        growing: bool,
    ) -> None:
        pairs: list[Pair] = []
        for layer, (key, value) in enumerate(shapes):
            given = kv.layer(layer)
            if given is None:
                zero = kv.keys[0].new_zeros(())
                given = (
                    zero.expand(key[0], len(kv), key[1]),
                    zero.expand(value[0], len(kv), value[1]),
                )
            pairs.append(given)
        super().__init__(layers=[PrefixLayer(pair, growing) for pair in pairs])
        self.growing = growing
        self.prefix_length = len(kv)
        self.inside_forward = False
        # Whether the first tokens came with inputs that are none, such as images.
        self.after_others = False
        # Of a model that counts positions in time and space, what it adds to those that follow.
        self.offset: torch.Tensor | None = None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before the next query: the input's so far, and inside the model the prefix too."""
        tokens = int(super().get_seq_length(layer_idx))
        return tokens + self.prefix_length if self.inside_forward else tokens

    def set_order(self, order: torch.Tensor | None) -> None:
        """The order `[batch, p + tokens]` in which the first pass puts prefix and tokens."""
        for layer in self.layers:
            assert isinstance(layer, PrefixLayer)
            layer.order = order
