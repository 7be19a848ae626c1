"""Models that count positions in time and space, as M-RoPE does (Wang et al. 2024, arXiv 2409.12191).

An image takes fewer positions than tokens, so that the text after it goes on at others than a mask
counts. Such a model keeps the difference as an attribute from one call to the next, whoever calls:
another conversation, or a text alone, would go on from an image that it never saw.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_COUNTING, _OFFSET = "compute_3d_position_ids", "rope_deltas"


def spatial_part(model: nn.Module) -> Any | None:
    """The part of a model that counts positions in time and space; None of one that does not."""
    return next((part for part in model.modules() if hasattr(part, _COUNTING)), None)


@contextmanager
def without_offset(part: Any | None) -> Iterator[None]:
    """Within it such a part of a model has seen no image; afterwards it knows of what it knew."""
    before = getattr(part, _OFFSET, None)
    if part is not None:
        setattr(part, _OFFSET, None)
    try:
        yield
    finally:
        if part is not None:
            setattr(part, _OFFSET, before)


def offset_of(part: Any | None) -> torch.Tensor | None:
    """What is added to the positions of each row's next tokens, `[batch, 1]`; None for nothing."""
    found: torch.Tensor | None = getattr(part, _OFFSET, None)
    return found


def go_on_from(part: Any | None, offset: torch.Tensor | None) -> None:
    """Let a part of a model count on after what an offset is of."""
    if part is not None:
        setattr(part, _OFFSET, offset)


def positions_of(part: Any, given: dict[str, Any]) -> torch.Tensor | None:
    """The positions `[axes, batch, tokens]` of a call's tokens; None where it has only text.

    `given` are the call's inputs, its `attention_mask` and `past_key_values` those of its own
    tokens. What a call needs beyond them the model makes up itself.
    """
    names = inspect.signature(getattr(part, _COUNTING)).parameters
    found: torch.Tensor | None = getattr(part, _COUNTING)(
        **{name: given.get(name) for name in names}
    )
    return found
