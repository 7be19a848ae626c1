"""The ways to compute shared-prefix (cascade) attention, one row each, the fastest first."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.prefix.packed.call import PackedAttentionCall, StateKind, Tensor
from pipeline.prefix.packed.flex import attention_by_flex, why_not_flex
from pipeline.prefix.packed.kernel.attention import attention_by_kernel
from pipeline.prefix.packed.kernel.library import attention_to_cache, why_not_kernel
from pipeline.prefix.packed.operators import attention_by_operators


@dataclass(frozen=True)
class Backend:
    """One way; in each the prefix is attended to once for all examples and never copied.

    Attributes:
        why_not: why it does not serve such queries, keys and values; None where it does.
        attention: `[num_heads, tokens, head_dim]` of a call, in the query's dtype.
        decode: attention of one new token a row to the keys of a `PackedCache`; None where it
            has none.
    """

    why_not: Callable[[StateKind], str | None]
    attention: Callable[[PackedAttentionCall], Tensor]
    decode: Callable[..., Tensor] | None = None


BACKENDS = (
    Backend(why_not_flex, attention_by_flex),
    Backend(why_not_kernel, attention_by_kernel, decode=attention_to_cache),
    Backend(lambda _: None, attention_by_operators),
)


def backend_for(kind: StateKind) -> Backend:
    """The first backend that serves; torch's operators serve every kind."""
    return next(backend for backend in BACKENDS if backend.why_not(kind) is None)


def shared_prefix_attention(call: PackedAttentionCall) -> Tensor:
    """The output of a call, `[num_heads, tokens, head_dim]`, by the fastest backend that serves."""
    return backend_for(call.kind).attention(call)


def why_not_decoded(kind: StateKind) -> str | None:
    """Why the backend for such states does not decode; None where it does."""
    if backend_for(kind).decode is not None:
        return None
    return next(backend.why_not(kind) for backend in BACKENDS if backend.decode)
