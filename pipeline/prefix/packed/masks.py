"""What a model's masks hide from its layers, as transformers makes them for this attention.

A model asks transformers for the masks of its kinds of layers and hands each layer its own; what
makes them is chosen by the name of the attention. Here a mask is no tensor but what it means.
Layers are never told apart by a model's name, nor by what a configuration says of them.
"""

from functools import lru_cache
from typing import Any

from transformers import AttentionMaskInterface, PreTrainedConfig

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.packed.sight import Sight

NAME = "shared_prefix_of_sight"
"""The attention's name where a row is longer than a window; by it alone masks are asked for."""


class NotPackableError(PrefixError):
    """An attention met on the way computes something that the fast way does not."""


def read_mask(
    *,
    config: PreTrainedConfig,
    local_size: int | None = None,
    use_vmap: bool = False,
    allow_is_bidirectional_skip: bool | None = None,
    **_: Any,
) -> Sight | None:
    """A function of transformers that makes the mask of a kind of layers; None for a causal one.

    Args:
        config: which of its sizes `local_size` is tells what kind of mask it is of.
        local_size: tokens of the window, or of a chunk.
        use_vmap: true where the model lays a mask of its own over it.
        allow_is_bidirectional_skip: given for masks that look ahead.

    Raises:
        NotPackableError: for a mask that hides anything but the beginning of a sequence.
    """
    if use_vmap or allow_is_bidirectional_skip is not None:
        raise NotPackableError("a mask of its own")
    if local_size is None:
        return None
    is_window = local_size == getattr(config, "sliding_window", None)
    is_chunk = local_size == getattr(config, "attention_chunk_size", None)
    if is_window is is_chunk:
        raise NotPackableError(f"a mask of {local_size} tokens that may be a window or a chunk")
    return _sight(local_size, is_chunk)


# The same object for every row: what is compiled for one serves the next.
@lru_cache(maxsize=8)
def _sight(size: int, is_chunk: bool) -> Sight:
    return Sight(chunk=size) if is_chunk else Sight(window=size)


AttentionMaskInterface.register(NAME, read_mask)
