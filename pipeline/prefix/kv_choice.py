"""Which of a prefix's tensors are those of some layers, parts or kinds."""

from typing import TYPE_CHECKING

import torch

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.states import has_tokens, layer_of

if TYPE_CHECKING:
    from pipeline.prefix.kv import KVPrefix

Choice = tuple[list[int], tuple[int, ...] | None, dict[str, torch.Tensor]]
"""Places among the keys, the layers that they are for (None for all), and states."""


def of_layers(kv: "KVPrefix", layers: tuple[int, ...]) -> Choice:
    """Those of some layers. Raises PrefixError for one that the prefix lacks."""
    attending = {layer for _, layer in kv.places}
    known = sorted(attending | set(map(layer_of, kv.states)))
    if not layers:
        raise PrefixError(f"layers is (); name at least one of {', '.join(map(str, known))}")
    if absent := [index for index in layers if index not in known]:
        raise PrefixError(
            f"layers: the prefix has no layer {absent[0]}, only {', '.join(map(str, known))}"
        )
    at = [i for i, (_, layer) in enumerate(kv.places) if layer in layers]
    states = {name: s for name, s in kv.states.items() if layer_of(name) in layers}
    return at, tuple(sorted(attending & {*layers})), states


def of_parts(kv: "KVPrefix", parts: tuple[str, ...]) -> Choice:
    """Those of some parts. Raises PrefixError for one that the prefix lacks."""
    known = list(dict.fromkeys(kv.parts or ()))
    if absent := [part for part in parts if part not in known]:
        shown = ", ".join(known) or "a decoder alone"
        raise PrefixError(f"parts: the prefix has none for '{absent[0]}', only for {shown}")
    return [i for i, (part, _) in enumerate(kv.places) if part in parts], kv.layers, kv.states


def of_kinds(kv: "KVPrefix", kinds: tuple[str, ...]) -> Choice:
    """Keys and values, states, or both. Raises PrefixError for what the prefix lacks."""
    if not kinds:
        raise PrefixError(f"kinds is (); name at least one of {', '.join(kv.kinds)}")
    if absent := [kind for kind in kinds if kind not in kv.kinds]:
        raise PrefixError(f"kinds: the prefix has no '{absent[0]}', only {' and '.join(kv.kinds)}")
    at = list(range(len(kv.keys))) if "attention" in kinds else []
    states = {
        name: state
        for name, state in kv.states.items()
        if ("attention" if has_tokens(name) else "state") in kinds
    }
    return at, kv.layers, states
