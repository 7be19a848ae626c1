"""How the kernel's C++ is given what it computes with: sizes, addresses, strides, terms.

Addresses are of tensors that the caller holds until the call has returned.
"""

import ctypes
import itertools
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.prefix.packed.call import PackedAttentionCall, Tensor, Terms
from pipeline.prefix.packed.sight import Horizon


class LaidOutTerms(ctypes.Structure):
    """The kernel's struct `Terms`."""

    _fields_ = (
        *(("scale", ctypes.c_float), ("softcap", ctypes.c_float)),
        *((name, ctypes.c_void_p) for name in ("own", "prefix", "sinks")),
    )

    @classmethod
    def of(cls, scaling: float, terms: Terms, horizon: Horizon | None) -> "LaidOutTerms":
        """Terms and the horizon of their sight, which live as long as it does."""
        made = cls(scaling, terms.softcap or 0.0)
        held: list[Any] = []
        if horizon is not None:
            held += map(integers, (horizon.own, horizon.prefix))
            made.own, made.prefix = map(ctypes.addressof, held)
        if terms.sinks is not None:
            held.append(terms.sinks.detach().float().contiguous())
            made.sinks = held[-1].data_ptr()
        made.held = held
        return made


def terms_of(call: PackedAttentionCall) -> LaidOutTerms:
    """The terms of packed examples."""
    sight = call.terms.sight
    horizon = None if sight is None else sight.of_row(call.lengths)
    return LaidOutTerms.of(call.scaling, call.terms, horizon)


def laid_out(states: list[Tensor]) -> tuple[Any, Any]:
    """Where states lie, and the strides of their first two axes."""
    return pointers(states), integers([stride for t in states for stride in t.stride()[:2]])


def states_of(call: PackedAttentionCall) -> list[Tensor]:
    """Query, key, value and the prefix's keys and values, in the kernel's order."""
    assert call.prefix_key is not None, "no prefix is one of no virtual tokens here"
    assert call.prefix_value is not None, "keys and values go together"
    return [call.query, call.key, call.value, call.prefix_key, call.prefix_value]


def sizes_of(call: PackedAttentionCall) -> list[int]:
    """The sizes of packed examples."""
    query, key, _, prefix_key, _ = states_of(call)
    return sizes_with(query, key.shape[0], prefix_key, len(call.lengths))


def sizes_with(query: Tensor, kv_heads: int, prefix_key: Tensor, last: int) -> list[int]:
    """The sizes that every function of the library takes, and a last one of its own."""
    assert prefix_key.dtype == torch.float32, "the prefix is trained in float32"
    heads, tokens, dim = query.shape
    return [tokens, heads, kv_heads, dim, prefix_key.shape[1], last]


def starts_of(lengths: list[int]) -> list[int]:
    """Where each example starts, and where the last one ends (`cu_seqlens`)."""
    return [0, *itertools.accumulate(lengths)]


def integers(values: Sequence[int]) -> Any:
    """An array of int64."""
    return (ctypes.c_int64 * len(values))(*values)


def pointers(tensors: Sequence[Tensor | None]) -> Any:
    """An array of tensors' addresses, null for None."""
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    return (ctypes.c_void_p * len(addresses))(*addresses)


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    """A tensor's address."""
    return ctypes.c_void_p(tensor.data_ptr())
