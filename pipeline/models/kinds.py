"""Which kinds of prefix the model in a folder can have, and where, by its configuration alone.

Configurations name recurrent layers in many ways; the cache that transformers makes for one says it
in one.
"""

from pathlib import Path

from transformers.cache_utils import CacheLayerMixin

from pipeline.models.configuration import read_configuration
from pipeline.prefix.caches import empty_cache, recurs
from pipeline.prefix.states import KINDS


def kinds_of_model(folder: Path) -> tuple[str, ...] | None:
    """Keys and values ("attention"), states ("state") or both; None of what is no model's folder.

    A model that transformers makes no cache for, layer by layer, has keys and values. Costs
    milliseconds once transformers is imported: no weights are read.
    """
    config = read_configuration(folder)
    if config is None:
        return None
    layers = empty_cache(config).layers
    attends = any(isinstance(layer, CacheLayerMixin) for layer in layers) or not layers
    has = {"attention": attends, "state": recurs(config)}
    return tuple(kind for kind in KINDS if has[kind])


def layers_of_model(folder: Path) -> int | None:
    """How many layers it has, of an encoder-decoder the side that has more; None as above."""
    config = read_configuration(folder)
    if config is None:
        return None
    own = config.get_text_config()
    sides = ("num_hidden_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
    counts = [getattr(own, side, None) for side in sides]
    cached = [] if config.is_encoder_decoder else [len(empty_cache(config).layers)]
    return max([*cached, *(count for count in counts if isinstance(count, int))], default=None)
