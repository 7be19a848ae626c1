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

from pipeline.prefix.packed.sight import Sight

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class Terms:
    """What an attention does beyond scaled, causal softmax attention.

    Attributes:
        sight: what a layer shows that hides distant keys; None where all are seen.
        softcap: scaled scores become `softcap * tanh(score / softcap)` (Gemma 2, arXiv 2408.00118);
            None to leave them.
        sinks: of each head, `[num_heads]`, a score that takes part in the softmax and weighs no
            value (gpt-oss); None for none.
    """

    sight: Sight | None = None
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def names(self) -> frozenset[str]:
        """What there is of them, by the names that a backend says it in."""
        named = {"windows": self.sight, "softcaps": self.softcap, "sinks": self.sinks}
        return frozenset(name for name, value in named.items() if value is not None)


PLAIN = Terms()
"""Scaled, causal softmax attention."""


@dataclass(frozen=True)
class StateKind:
    """What a backend is chosen by: the device type, dtypes and head sizes of keys and values.

    `beyond` has what else is asked for, by the names of `Terms`.
    """

    device: str
    dtypes: frozenset[torch.dtype]
    head_dims: frozenset[int]
    beyond: frozenset[str] = frozenset()


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
        terms: windows, chunks, softcaps and sinks.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    prefix_key: Tensor | None
    prefix_value: Tensor | None
    lengths: list[int]
    scaling: float
    terms: Terms = PLAIN

    @property
    def kind(self) -> StateKind:
        """The kind of query, key and value."""
        return kind_of(self.query, self.key, self.value, beyond=self.terms.names)


def kind_of(*states: Tensor, beyond: frozenset[str] = frozenset()) -> StateKind:
    """The kind of states on one device."""
    return StateKind(
        states[0].device.type,
        frozenset(state.dtype for state in states),
        frozenset(state.shape[-1] for state in states),
        beyond,
    )
