"""The configuration of a model that holds a given prefix."""

from transformers import PreTrainedModel

from pipeline.prefix.architecture.shapes import cache_shapes, chosen_shapes
from pipeline.prefix.caches import chooses, recurs
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.parameters.config import PrefixConfig
from pipeline.prefix.states import index_of, layer_of


def config_holding(
    frozen_model: PreTrainedModel, kv: KVPrefix, prefix_always_visible: bool = False
) -> PrefixConfig:
    """The configuration with which a model takes a prefix as it is, and what was trained with it.

    Raises PrefixError for a model without a place for one.
    """
    layers, kinds = _places_of(frozen_model, kv)
    return PrefixConfig(
        num_virtual_tokens=len(kv),
        layers=layers,
        kinds=kinds,
        # States alone are seen by no query.
        prefix_always_visible=prefix_always_visible and bool(kv.keys),
        parts=None if kv.parts is None else tuple(dict.fromkeys(kv.parts)),
        modules_to_save=tuple(dict.fromkeys(n.rpartition(".")[0] for n in sorted(kv.modules))),
    )


def _places_of(
    frozen_model: PreTrainedModel, kv: KVPrefix
) -> tuple[tuple[int, ...] | None, tuple[str, ...] | None]:
    """The layers and the kinds to ask for, so that a model gets what a prefix has and no more."""
    if not (recurs(frozen_model.config) or chooses(frozen_model.config)):
        return kv.layers, None
    whole = chosen_shapes(
        cache_shapes(frozen_model), PrefixConfig(num_virtual_tokens=len(kv), kinds=kv.kinds)
    )
    # Without any index keys a model is given zeros.
    names = {*whole.states, *(whole.index if index_of(kv.states) else ())}
    if kv.layers == whole.layers and kv.states.keys() == names:
        return None, kv.kinds
    attending = {layer for _, layer in kv.places}
    return tuple(sorted({*attending, *map(layer_of, kv.states)})), kv.kinds
