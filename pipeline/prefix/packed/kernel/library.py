"""The CPU's own attention kernel: the functions of the C++ in this folder.

Where it cannot be compiled, the attention runs on torch's operators instead, more slowly.
"""

import ctypes
import weakref
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.prefix.packed.call import PLAIN, PackedAttentionCall, StateKind, Tensor, Terms
from pipeline.prefix.packed.kernel.layout import (
    LaidOutTerms,
    integers,
    laid_out,
    pointer,
    pointers,
    sizes_of,
    sizes_with,
    starts_of,
    states_of,
    terms_of,
)
from pipeline.prefix.packed.kernel.loading import NAMES, kernel_library

ROOM = 16
"""What a row's room is a multiple of: the floats of the widest vector."""


def why_not_kernel(kind: StateKind) -> str | None:
    """Why there is no kernel for such queries, keys and values; None where there is.

    Those of a prefix are float32 whatever the others are.
    """
    if kind.device != "cpu":
        return f"the CPU's kernel does not serve {kind.device}"
    if len(kind.dtypes) > 1 or not kind.dtypes <= NAMES.keys():
        return f"the CPU's kernel takes {' or '.join(NAMES.values())}"
    if len(kind.head_dims) > 1:
        return "the CPU's kernel takes one head size for queries, keys and values"
    library = kernel_library()
    if isinstance(library, str):
        return f"the CPU's kernel {library}"
    lanes, dim = library.lanes(), min(kind.head_dims)
    if dim % lanes:
        return f"the CPU's kernel takes head sizes that are multiples of {lanes}, not {dim}"
    return None


def attention_forward(call: PackedAttentionCall) -> tuple[Tensor, Tensor]:
    """Attention of packed examples to themselves, causally, and to the float32 prefix.

    Returns `[num_heads, tokens, head_dim]` in the query's dtype, and float32 log-sum-exps of the
    scaled scores `[num_heads, tokens]`.
    """
    query = call.query
    heads, tokens, dim = query.shape
    out = query.new_empty(tokens, heads, dim)
    lse = query.new_empty(heads, tokens, dtype=torch.float32)
    outputs = pointer(out), pointer(lse)
    starts = [starts_of(call.lengths)]
    _run("forward", sizes_of(call), starts, terms_of(call), states_of(call), *outputs)
    return out.transpose(0, 1), lse


def attention_backward(
    grad: Tensor, call: PackedAttentionCall, out: Tensor, lse: Tensor, for_input: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor, Tensor]:
    """Gradients of query, key, value (None unless `for_input`), and of the prefix, float32."""
    inputs = [
        torch.empty_like(t.transpose(0, 1), memory_format=torch.contiguous_format)
        for t in ((call.query, call.key, call.value) if for_input else ())
    ]
    *_, prefix_key, _ = states = states_of(call)
    prefix = [torch.empty(prefix_key.shape, dtype=torch.float32) for _ in range(2)]
    outputs = pointer(lse), pointers(inputs or [None] * 3), pointers(prefix)
    starts = [starts_of(call.lengths)]
    _run("backward", sizes_of(call), starts, terms_of(call), [*states, grad, out], *outputs)
    turned: list[Any] = [t.transpose(0, 1) for t in inputs] or [None] * 3
    return turned[0], turned[1], turned[2], prefix[0], prefix[1]


class KernelPrefix:
    """A prefix laid out for decoding, once for all tokens of a cache.

    Args:
        query: `[num_heads, rows, dim]`, of those that attend to it.
        key, value: `[num_kv_heads, p, dim]`, in any float dtype.
    """

    def __init__(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        library, dtype = kernel_library(), NAMES[query.dtype]
        states = [t.float().contiguous() for t in (key, value)]
        self.length = key.shape[1]
        self.address = getattr(library, f"prefix_{dtype}")(
            integers(sizes_with(query, key.shape[0], states[0], 0)), *laid_out(states)
        )
        weakref.finalize(self, getattr(library, f"free_{dtype}"), self.address)


def addresses_of(keys: Sequence[Tensor], values: Sequence[Tensor]) -> Any:
    """Where rows' keys and values lie, for `attention_to_cache`; the caller holds them."""
    return pointers([*keys, *values])


def attention_to_cache(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: KernelPrefix,
    addresses: Any,
    rooms: list[int],
    counts: list[int],
    scaling: float,
    terms: Terms = PLAIN,
) -> Tensor:
    """Append a token a row, and attend to the row's own tokens and the prefix.

    Args:
        query: `[num_heads, rows, dim]`; `key` and `value` `[num_kv_heads, rows, dim]`.
        prefix: of queries like these.
        addresses: of the rows' keys `[num_kv_heads, dim, room]` and values `[num_kv_heads, room,
            dim]`, contiguous.
        rooms: of each row, a multiple of `ROOM`.
        counts: how many tokens each has, the new one not among them.
        scaling: what scores are multiplied by before the softmax.
        terms: windows, chunks, softcaps and sinks.

    Returns:
        `[num_heads, rows, dim]` in the query's dtype.
    """
    heads, count, dim = query.shape
    out = query.new_empty(count, heads, dim)
    sizes = [count, heads, key.shape[0], dim, prefix.length, 0]
    sight = terms.sight
    own = LaidOutTerms.of(scaling, terms, None if sight is None else sight.of_tokens(counts))
    indices = [rooms, [tokens + 1 for tokens in counts]]
    where = addresses, ctypes.c_void_p(prefix.address), pointer(out)
    _run("decode", sizes, indices, own, [query, key, value], *where)
    return out.transpose(0, 1)


def _run(
    name: str,
    sizes: list[int],
    indices: list[list[int]],
    terms: LaidOutTerms,
    states: list[Tensor],
    *outputs: Any,
) -> None:
    """Call the library's function for the dtype of `states`, of which the first is the query."""
    library = kernel_library()
    assert not isinstance(library, str), "asked of `why_not_kernel` before"
    dtype = NAMES[states[0].dtype]
    # Held until the call has returned, copies too.
    states = [t if t.stride(-1) == 1 else t.contiguous() for t in states]
    getattr(library, f"{name}_{dtype}")(
        integers(sizes),
        *map(integers, indices),
        ctypes.byref(terms),
        *laid_out(states),
        *outputs,
    )
