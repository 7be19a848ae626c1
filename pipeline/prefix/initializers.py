"""Where a prefix can start, beyond the KV cache of a text."""

import torch

from pipeline.prefix.encoder import Shapes, unflatten
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix


def random_kv_prefix(
    shapes: Shapes, num_virtual_tokens: int, scale: float, generator: torch.Generator
) -> KVPrefix:
    """Normal noise of standard deviation `scale`; 1.0 is PEFT's start."""
    if not scale > 0:
        raise PrefixError(f"scale is {scale}; it must be above 0")
    width = sum(k[0] * k[1] + v[0] * v[1] for k, v in shapes)
    flat = torch.randn(num_virtual_tokens, width, generator=generator) * scale
    return unflatten(flat, shapes)
