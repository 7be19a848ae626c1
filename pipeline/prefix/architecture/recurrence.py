"""Which kinds of memory the layers of a decoder have: keys and values, a state, or both.

A layer that attends keeps a key and a value of every token; one that recurs (linear attention, a
state-space model, a short convolution) keeps a state, whose size is the same after any number of
tokens. Configurations name such layers in many ways; the cache that transformers makes for one
says it in one.
"""

from typing import Any

from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin, LinearAttentionCacheLayerMixin

KINDS = ("attention", "state")
"""In this order wherever both stand together."""


def kinds_of(config: Any) -> tuple[str, ...]:
    """The kinds of memory, of `KINDS`, that a model of this configuration has.

    A layer of which transformers makes no cache from the configuration counts as attention.
    """
    try:
        layers = DynamicCache(config=config).layers
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError):
        return ("attention",)
    has = {
        "attention": any(isinstance(layer, CacheLayerMixin) for layer in layers) or not layers,
        "state": any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers),
    }
    return tuple(kind for kind in KINDS if has[kind])


def keeps_states(config: Any) -> bool:
    """Whether some layer of a model of this configuration keeps a state."""
    return "state" in kinds_of(config)
