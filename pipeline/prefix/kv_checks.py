"""What a prefix's tensors have to be to be one prefix."""

from typing import TYPE_CHECKING

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.states import has_tokens

if TYPE_CHECKING:
    from pipeline.prefix.kv import KVPrefix


def refuse_empty(kv: "KVPrefix") -> None:
    """Raise PrefixError for neither keys nor states, and for states alone without a length."""
    if not (kv.keys or kv.states) or len(kv.keys) != len(kv.values):
        raise PrefixError(
            f"a prefix needs as many keys as values, at least one of each; found "
            f"{len(kv.keys)} and {len(kv.values)}"
        )
    if not kv.keys and (kv.length is None or kv.length < 1):
        raise PrefixError(
            f"a prefix of states alone says its length, at least 1; found {kv.length}"
        )


def refuse_unlike(kv: "KVPrefix") -> None:
    """Raise PrefixError when layers disagree about p, or keys and values have unlike shapes."""
    if kv.parts is not None and len(kv.parts) != len(kv.keys):
        raise PrefixError(f"{len(kv.keys)} keys cannot be of {len(kv.parts)} parts")
    stacks = 1 if kv.parts is None else len(set(kv.parts))
    if kv.layers is not None and len(kv.layers) * stacks != len(kv.keys):
        raise PrefixError(f"{len(kv.keys)} keys cannot be for {len(kv.layers)} layers")
    for layer, (key, value) in enumerate(zip(kv.keys, kv.values, strict=True)):
        if key.ndim != 3 or value.ndim != 3 or key.shape[:2] != value.shape[:2]:
            raise PrefixError(
                f"layer {layer}: keys {tuple(key.shape)} and values {tuple(value.shape)} must "
                "both be [num_kv_heads, p, head_dim]"
            )
        if key.shape[1] != len(kv) or len(kv) < 1:
            raise PrefixError(
                f"layer {layer} has {key.shape[1]} virtual tokens where layer 0 has {len(kv)}"
            )
    for name, state in kv.states.items():
        if has_tokens(name) and (not state.ndim or len(state) != len(kv)):
            raise PrefixError(
                f"{name} is {tuple(state.shape)}, which is not [{len(kv)}, ...] as the keys"
            )
