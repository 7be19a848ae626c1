"""Which kinds of prefix a decoder can have, by its configuration: keys and values, states, or both.

Configurations name recurrent layers in many ways; the cache that transformers makes for one says it
in one.
"""

from transformers import PreTrainedConfig
from transformers.cache_utils import CacheLayerMixin

from pipeline.prefix.caches import empty_cache, recurs
from pipeline.prefix.states import KINDS


def kinds_of(config: PreTrainedConfig) -> tuple[str, ...]:
    """The kinds, of `KINDS`, that a model of this configuration has.

    A model that transformers makes no cache for, layer by layer, has keys and values.
    """
    layers = empty_cache(config).layers
    attends = any(isinstance(layer, CacheLayerMixin) for layer in layers) or not layers
    has = {"attention": attends, "state": recurs(config)}
    return tuple(kind for kind in KINDS if has[kind])
