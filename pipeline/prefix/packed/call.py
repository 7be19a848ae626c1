"""The one idea of the fast way: attention over two sets of keys, a shared prefix and one's own.

Examples are packed one after another without padding, which the field calls varlen
(FlashAttention-2, Dao 2023, arXiv 2307.08691); the running sums of their lengths are its
`cu_seqlens`. All of them attend to one prefix, once for the whole row: shared-prefix attention
(Hydragen, Juravsky et al. 2024, arXiv 2402.05099), or cascade attention (cascade inference of
FlashInfer, Ye et al. 2024, flashinfer.ai/2024/02/02/cascade-inference.html). Merging by log-sum-exp
makes the two results those of one softmax over all keys.
"""

from dataclasses import dataclass

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class StateKind:
    """What a backend is chosen by: the device type, dtypes and head sizes of keys and values."""

    device: str
    dtypes: frozenset[torch.dtype]
    head_dims: frozenset[int]


@dataclass(frozen=True)
class PackedAttentionCall:
    """Causal attention within each packed example, and of every position to the prefix.

    Attributes:
        query: `[num_heads, tokens, head_dim]`, examples one after another.
        key: `[num_kv_heads, tokens, head_dim]`, `value` likewise, both in the query's dtype.
        prefix_key: `[num_kv_heads, p, head_dim]`, `prefix_value` likewise, in any float dtype; both
            None for no prefix.
        lengths: tokens of each example; their sum is `tokens`.
        scaling: what scores are multiplied by before the softmax.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    prefix_key: Tensor | None
    prefix_value: Tensor | None
    lengths: list[int]
    scaling: float

    @property
    def kind(self) -> StateKind:
        """The kind of query, key and value."""
        return kind_of(self.query, self.key, self.value)


def kind_of(*states: Tensor) -> StateKind:
    """The kind of states on one device."""
    return StateKind(
        states[0].device.type,
        frozenset(state.dtype for state in states),
        frozenset(state.shape[-1] for state in states),
    )
