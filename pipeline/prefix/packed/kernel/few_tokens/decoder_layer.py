"""Decoder layers by the kernel: one call before their attention, and one after it.

A layer of the common form is known by its parts, and tried once: what its class does beside them
shows. Its attention is called as its class calls it.
"""

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pipeline.prefix.packed.call import Tensor
from pipeline.prefix.packed.kernel.few_tokens.bound import Bound
from pipeline.prefix.packed.kernel.few_tokens.forward import Forward, Forwards
from pipeline.prefix.packed.kernel.few_tokens.gated import refuse_zeros
from pipeline.prefix.packed.kernel.few_tokens.layer_parts import (
    LaidOutLayer,
    LayerParts,
    parts_of,
)
from pipeline.prefix.packed.kernel.few_tokens.trial import Verdicts, agree, drawn_states
from pipeline.prefix.packed.kernel.loading import NAMES, kernel_library

_TRIAL = "few_tokens_trial"
# Small ones show what is added to them, which does not depend on their size; large ones a clamp.
_SIZES = (1.0, 1e-2, 1e-3, 1e3)

_OF_THE_LAYER = ("attention_mask", "position_embeddings", "past_key_values")
"""What an attention function is not told by keyword."""

_Told = dict[str, Any]
"""What a layer's class tells its attention beside what it is told."""

_verdicts = Verdicts[_Told]()


def decoder_layer_forwards(modules: Iterable[nn.Module], bound: Bound) -> Forwards:
    """The decoder layers that the kernel knows."""
    for module in modules:
        parts = parts_of(module, bound)
        if parts is not None:
            trial = partial(_told_by, module, parts, bound.dtype)
            told = _verdicts.of(module, bound.dtype, trial)
            if told is not None:
                yield module, _forward(module, parts, bound, told)


class _ByKernel:
    """A decoder layer's function of states `[1, tokens, size]`."""

    def __init__(self, layer: Any, parts: LayerParts, told: _Told) -> None:
        library, name = kernel_library(), NAMES[parts.linears[0].weight.dtype]
        self._before = getattr(library, f"before_{name}")
        self._after = getattr(library, f"after_{name}")
        self._laid_out = LaidOutLayer.of(parts)
        self._address = ctypes.addressof(self._laid_out)
        self._module, self._told = layer.self_attn, told
        self._config, self._heads, self._dim = layer.self_attn.config, parts.heads, parts.head_dim

    @property
    def attention(self) -> Any:
        """The function that the model's attention is switched to; None for its own."""
        return ALL_ATTENTION_FUNCTIONS.get(self._config._attn_implementation)

    def __call__(
        self,
        attention: Any,
        states: Tensor,
        rotation: tuple[Tensor, ...],
        attention_mask: Any,
        **kwargs: Any,
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
        told = self._told | kwargs
        attended = attention(self._module, *heads, attention_mask, **told)[0]
        attended, result = attended.contiguous(), torch.empty_like(states)
        self._after(self._address, tokens, given, attended.data_ptr(), result.data_ptr())
        return result


def _forward(layer: Any, parts: LayerParts, bound: Bound, told: _Told) -> Forward:
    own, by_kernel = layer.forward, _ByKernel(layer, parts, told)
    size, dim = parts.size, parts.head_dim

    def forward(*given: Any, **named: Any) -> Any:
        rotation = named.get("position_embeddings")
        if (
            len(given) == 1
            and named.get("past_key_values") is None
            and isinstance(rotation, tuple)
            and bound.holds(given[0], size)
            and _are_one_row(given[0], rotation, dim)
            and (attention := by_kernel.attention) is not None
        ):
            others = {name: value for name, value in named.items() if name not in _OF_THE_LAYER}
            mask = named.get("attention_mask")
            return by_kernel(attention, given[0], rotation, mask, **others)
        return own(*given, **named)

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


def _told_by(layer: Any, parts: LayerParts, dtype: torch.dtype) -> _Told | None:
    """What a layer's class tells its attention; None where it computes something else.

    Both are tried with an attention that mixes no tokens, and remembers what it was given.
    """
    refuse_zeros(parts.linears)
    states = drawn_states(parts.size, dtype, _SIZES)
    # No two alike, so that pairs of another form show.
    cos = drawn_states(parts.head_dim, dtype, [1.0] * len(_SIZES))
    rotation = cos, cos.flip(-1).contiguous()
    own, by_kernel = list[_Call](), list[_Call]()
    config = layer.self_attn.config
    before = config._attn_implementation
    # Not by the property, which would change the configurations below it as well.
    config._attn_implementation_internal = _TRIAL
    try:
        is_one = agree(
            lambda given: layer.forward(given, position_embeddings=rotation, calls=own),
            lambda given: _ByKernel(layer, parts, {})(
                _remember, given, rotation, None, calls=by_kernel
            ),
            states,
        )
    finally:
        config._attn_implementation_internal = before
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
    told: _Told


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
