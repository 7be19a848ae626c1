"""What a decoder layer is made of, where the kernel knows all of it, as its C++ is given it."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from pipeline.prefix.packed.call import Tensor
from pipeline.prefix.packed.kernel.few_tokens.bound import Bound, is_plain
from pipeline.prefix.packed.kernel.few_tokens.functions import number_of
from pipeline.prefix.packed.kernel.few_tokens.gated import gated_activation, gated_layers
from pipeline.prefix.packed.kernel.few_tokens.norm import NormForm, norm_form

_LAYER = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}


@dataclass(frozen=True, eq=False)
class LayerParts:
    """The parts of a decoder layer of transformers' most common form (Llama's).

    Attributes:
        norms: those of the input, the MLP, the query's and the key's heads; None for none.
        linears: query, key, value, output, gate, up, down.
        activation: by its name in `functions.ACTIVATIONS`.
    """

    norms: Sequence[tuple[NormForm, Tensor] | None]
    linears: Sequence[nn.Linear]
    head_dim: int
    activation: str

    @property
    def size(self) -> int:
        """Of the states between layers."""
        return self.linears[0].in_features

    @property
    def heads(self) -> tuple[int, int, int]:
        """Of queries, keys and values."""
        query, key, value = (layer.out_features // self.head_dim for layer in self.linears[:3])
        return query, key, value


def parts_of(layer: nn.Module, bound: Bound) -> LayerParts | None:
    """The parts of a module; None for what has others, or one that the kernel does not know."""
    parts = layer._modules
    if parts.keys() != _LAYER or layer._parameters or not is_plain(layer) or layer.training:
        return None
    attention: Any = parts["self_attn"]
    inner = attention._modules
    if inner.keys() not in (_ATTENTION, _ATTENTION | _HEAD_NORMS):
        return None
    if attention._parameters or not is_plain(attention) or not hasattr(attention, "config"):
        return None
    activation, dim = gated_activation(parts["mlp"], bound), getattr(attention, "head_dim", None)
    projections = [inner[name] for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    if activation is None or not isinstance(dim, int) or not all(map(bound.serves, projections)):
        return None
    modules = [parts["input_layernorm"], parts["post_attention_layernorm"]]
    modules += [inner[name] for name in ("q_norm", "k_norm") if name in inner]
    forms = [norm_form(module, bound) for module in modules]
    if None in forms:
        return None
    norms: list[Any] = [(f, m.weight) for f, m in zip(forms, modules, strict=True)]  # type: ignore[union-attr]
    norms += [None] * (4 - len(norms))
    found = LayerParts(norms, [*projections, *gated_layers(parts["mlp"])], dim, activation)
    return found if _fit(found) else None


def _fit(parts: LayerParts) -> bool:
    """Whether states go through all of them as through Llama's."""
    query, key, value, output, gate, _, down = parts.linears
    sizes = {query.in_features, key.in_features, value.in_features, gate.in_features}
    sizes |= {output.out_features, down.out_features}
    scales = [None if norm is None else len(norm[1]) for norm in parts.norms]
    dim = parts.head_dim
    return (
        len(sizes) == 1
        and query.out_features == output.in_features
        and key.out_features == value.out_features
        and not any(layer.out_features % dim for layer in (query, key))
        and not dim % 2
        and scales[:2] == [parts.size] * 2
        and set(scales[2:]) <= {dim, None}
    )


class _Norm(ctypes.Structure):
    """The kernel's struct `Norm`."""

    _fields_ = (
        ("scale", ctypes.c_void_p),
        ("epsilon", ctypes.c_float),
        ("rounds_first", ctypes.c_int32),
    )


class _Layer(ctypes.Structure):
    """The kernel's struct `Layer`."""

    _fields_ = (("weights", ctypes.c_void_p), ("bias", ctypes.c_void_p))


class LaidOutLayer(ctypes.Structure):
    """The kernel's struct `DecoderLayer`, which keeps the tensors that it points to."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("size", "heads", "kv_heads", "dim", "middle")),
        ("activation", ctypes.c_int64),
        ("norms", _Norm * 4),
        ("linears", _Layer * 7),
    )

    @classmethod
    def of(cls, parts: LayerParts) -> "LaidOutLayer":
        """The parts as they are now: their weights are not copied, and the norms' scales are."""
        heads, kv_heads, _ = parts.heads
        middle, activation = parts.linears[4].out_features, number_of(parts.activation)
        made = cls(parts.size, heads, kv_heads, parts.head_dim, middle, activation)
        scales = [None if norm is None else norm[0].scale(norm[1]) for norm in parts.norms]
        for i, (norm, scale) in enumerate(zip(parts.norms, scales, strict=True)):
            if norm is not None and scale is not None:
                made.norms[i] = _Norm(scale.data_ptr(), norm[0].epsilon, norm[0].rounds_first)
        tensors = [(layer.weight, layer.bias) for layer in parts.linears]
        for i, (weight, bias) in enumerate(tensors):
            made.linears[i] = _Layer(weight.data_ptr(), None if bias is None else bias.data_ptr())
        made.held = scales, tensors
        return made
