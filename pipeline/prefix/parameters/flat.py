"""Keys and values of a prefix as one flat tensor, and which ones a model's layers have."""

import torch

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix

Shapes = list[tuple[tuple[int, ...], tuple[int, ...]]]
"""For each layer `(num_kv_heads, head_dim)` of keys and of values."""


def flatten(kv: KVPrefix) -> torch.Tensor:
    """A prefix as `[p, width]` float32: for each layer its keys, then its values, head by head."""
    parts = [
        tensor.transpose(0, 1).flatten(1)
        for pair in zip(kv.keys, kv.values, strict=True)
        for tensor in pair
    ]
    return torch.cat(parts, dim=1).float()


def unflatten(flat: torch.Tensor, shapes: Shapes) -> KVPrefix:
    """The inverse of `flatten`; slices of one tensor, no copies."""
    return KVPrefix(*unflattened(flat, shapes))


def unflattened(
    flat: torch.Tensor, shapes: Shapes
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """The keys and values of `unflatten`; none of no shapes."""
    if not shapes:
        return (), ()
    wanted = [shape for pair in shapes for shape in pair]
    # Split at once: slices taken one by one would each add a gradient as large as all of `flat`.
    parts = [
        part.unflatten(1, shape).transpose(0, 1)
        for part, shape in zip(
            flat.split([heads * size for heads, size in wanted], dim=1), wanted, strict=True
        )
    ]
    return tuple(parts[0::2]), tuple(parts[1::2])


def kinds_of(shapes: Shapes, states: object) -> tuple[str, ...]:
    """What a prefix of these shapes is made of, as in `KVPrefix.kinds`."""
    return (*(("attention",) if shapes else ()), *(("state",) if states else ()))


def check_fit(kv: KVPrefix, shapes: Shapes) -> None:
    """Raise PrefixError, with both shapes, when a prefix does not fit a model."""
    if len(kv.shapes) != len(shapes):
        raise PrefixError(
            f"the prefix has {len(kv.shapes)} layers, the model {len(shapes)}; it was made for "
            "another model"
        )
    for layer, (found, wanted) in enumerate(zip(kv.shapes, shapes, strict=True)):
        if found != wanted:
            raise PrefixError(
                f"layer {layer}: the prefix has (heads, head size) {found[0]} for keys and "
                f"{found[1]} for values, the model {wanted[0]} and {wanted[1]}; it was made for "
                "another model"
            )
