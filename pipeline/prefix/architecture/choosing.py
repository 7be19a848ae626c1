"""Models whose attention chooses among the keys by an index of its own."""

import inspect

from torch import nn

_CACHE, _MASK = "past_key_values", "attention_mask"


def chooses_by_place(model: nn.Module) -> bool:
    """Whether an index of the model scores keys by their places alone, whatever a mask hides.

    MiniMax M3's does: a padding token, or a virtual token that a layer is not to see, takes another
    one's place among the chosen. An index is a module of an attention that is given the cache.
    """
    indexes = (
        inspect.signature(part.forward).parameters
        for module in model.modules()
        if "Attention" in type(module).__name__
        for part in module.children()
    )
    return any(_CACHE in given and _MASK not in given for given in indexes)
