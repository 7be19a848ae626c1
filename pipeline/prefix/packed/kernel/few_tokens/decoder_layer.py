"""Decoder layers by the kernel: one call before their attention, and one after it.

A layer of the common form is known by its parts, and tried once: what its class does beside them
shows. Its attention is called as its class calls it.
"""

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pipeline.prefix.packed.call import Tensor
from pipeline.prefix.packed.kernel.few_tokens.bound import Bound
from pipeline.prefix.packed.kernel.few_tokens.layer_parts import (
    LaidOutLayer,
    LayerParts,
    parts_of,
)
from pipeline.prefix.packed.kernel.few_tokens.trial import agree, drawn_states
from pipeline.prefix.packed.kernel.loading import NAMES, kernel_library

_TRIAL = "few_tokens_trial"
# Small ones show what is added to them, which does not depend on their size.
_SIZES = (1.0, 1e-2, 1e-3)

# Of each what it tells its attention beside what it is told; None for one that is not served.
_tried: WeakKeyDictionary[nn.Module, dict[torch.dtype, dict[str, Any] | None]]
_tried = WeakKeyDictionary()


def decoder_layer_forwards(
    model: nn.Module, bound: Bound
) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
    """A model's decoder layers that the kernel knows, and the forward of each by it."""
    for module in model.modules():
        parts = parts_of(module, bound)
        if parts is not None:
            told = _tried.setdefault(module, {})
            if bound.dtype not in told:
                told[bound.dtype] = _told_by(module, parts, bound.dtype)
            if (own := told[bound.dtype]) is not None:
                yield module, _forward(module, parts, bound, own)


class _ByKernel:
    """A decoder layer's function of states `[1, tokens, size]`."""

    def __init__(self, layer: Any, parts: LayerParts, told: dict[str, Any]) -> None:
        library, name = kernel_library(), NAMES[parts.linears[0].weight.dtype]
        self._before = getattr(library, f"before_{name}")
        self._after = getattr(library, f"after_{name}")
        self._laid_out = LaidOutLayer.of(parts)
        self._address = ctypes.addressof(self._laid_out)
        self._attention, self._told = layer.self_attn, told
        self._config, self._heads, self._dim = layer.self_attn.config, parts.heads, parts.head_dim

    def __call__(
        self, states: Tensor, rotation: tuple[Tensor, ...], attention_mask: Any, **kwargs: Any
    ) -> Tensor:
        tokens, given, dim = states.shape[1], states.data_ptr(), self._dim
        projected = states.new_empty(tokens * sum(self._heads) * dim)
        cos, sin = (t.data_ptr() for t in rotation)
        self._before(self._address, tokens, given, cos, sin, projected.data_ptr())
        heads, first = [], 0
        for count in self._heads:
            strides = (0, dim, count * dim, 1)
            heads.append(projected.as_strided((1, count, tokens, dim), strides, first))
            first += tokens * count * dim
        attend = ALL_ATTENTION_FUNCTIONS[self._config._attn_implementation]
        told = self._told | kwargs
        attended = attend(self._attention, *heads, attention_mask, **told)[0]
        attended, result = attended.contiguous(), torch.empty_like(states)
        self._after(self._address, tokens, given, attended.data_ptr(), result.data_ptr())
        return result


def _forward(
    layer: Any, parts: LayerParts, bound: Bound, told: dict[str, Any]
) -> Callable[..., Any]:
    own, by_kernel, size, dim = (
        layer.forward,
        _ByKernel(layer, parts, told),
        parts.size,
        parts.head_dim,
    )

    def forward(
        hidden_states: Tensor,
        attention_mask: Any = None,
        *others: Any,
        position_embeddings: Any = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Any:
        if (
            not others
            and past_key_values is None
            and isinstance(position_embeddings, tuple)
            and bound.holds(hidden_states, size)
            and _are_one_row(hidden_states, position_embeddings, dim)
        ):
            return by_kernel(hidden_states, position_embeddings, attention_mask, **kwargs)
        kwargs |= {"position_embeddings": position_embeddings, "past_key_values": past_key_values}
        return own(hidden_states, attention_mask, *others, **kwargs)

    return forward


def _are_one_row(states: Tensor, rotation: tuple[Tensor, ...], dim: int) -> bool:
    """Whether each token of `[1, tokens, size]` has its cosines and sines `[1, tokens, dim]`."""
    shape = (1, states.shape[1], dim)
    return (
        states.shape[0] == 1
        and states.is_contiguous()
        and len(rotation) == 2
        and all(
            t.shape == shape and t.dtype == states.dtype and t.is_contiguous() for t in rotation
        )
    )


def _told_by(layer: Any, parts: LayerParts, dtype: torch.dtype) -> dict[str, Any] | None:
    """What a layer's class tells its attention; None where it computes something else.

    Both are tried with an attention that mixes no tokens, and remembers what it was given.
    """
    states = drawn_states(parts.size, dtype, _SIZES)
    # No two alike, so that pairs of another form show.
    cos = drawn_states(parts.head_dim, dtype, [1.0] * len(_SIZES))
    rotation = cos, cos.flip(-1).contiguous()
    own, by_kernel = list[_Call](), list[_Call]()
    config = layer.self_attn.config
    before = config._attn_implementation
    config._attn_implementation = _TRIAL
    try:
        is_one = agree(
            lambda given: layer.forward(given, position_embeddings=rotation, calls=own),
            lambda given: _ByKernel(layer, parts, {})(given, rotation, None, calls=by_kernel),
            states,
        )
    finally:
        config._attn_implementation = before
    if not is_one or len(own) != 1:
        return None
    for one, other in zip(own[0].heads, by_kernel[0].heads, strict=True):
        if not agree(partial(_given, one), partial(_given, other), states):
            return None
    told = own[0].told
    return told if all(_is_plain_value(value) for value in told.values()) else None


def _is_plain_value(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


@dataclass(frozen=True, eq=False)
class _Call:
    """Query, key and value that an attention was given, and what it was told."""

    heads: tuple[Tensor, Tensor, Tensor]
    told: dict[str, Any]


def _given(heads: Tensor, _: Tensor) -> Tensor:
    return heads


def _remember(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    calls: list[_Call],
    **told: Any,
) -> tuple[Tensor, None]:
    calls.append(_Call((query, key, value), told))
    group = query.shape[1] // key.shape[1]
    mixed = query + (key * 0.5 + value).repeat_interleave(group, dim=1)
    return mixed.transpose(1, 2), None


AttentionInterface.register(_TRIAL, _remember)
