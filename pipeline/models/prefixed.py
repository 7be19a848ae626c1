"""A frozen model with a prefix that is there already."""

from transformers import PreTrainedModel

from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel
from pipeline.prefix.architecture.shapes import cache_shapes, chosen_shapes
from pipeline.prefix.caches import chooses, recurs
from pipeline.prefix.states import index_of, layer_of


def prefixed_model(
    frozen_model: PreTrainedModel, kv: KVPrefix | None, prefix_always_visible: bool = False
) -> PrefixModel:
    """The frozen model with a prefix as it is, and the modules that were trained beside it.

    None is the empty prefix: the frozen model alone.

    Raises PrefixError for one that was made for another model, or leaves no room in its context.
    """
    if kv is None:
        return PrefixModel(frozen_model)
    layers, kinds = _places_of(frozen_model, kv)
    config = PrefixConfig(
        num_virtual_tokens=len(kv),
        layers=layers,
        kinds=kinds,
        # States alone are seen by no query.
        prefix_always_visible=prefix_always_visible and bool(kv.keys),
        parts=None if kv.parts is None else tuple(dict.fromkeys(kv.parts)),
        modules_to_save=tuple(dict.fromkeys(n.rpartition(".")[0] for n in sorted(kv.modules))),
    )
    model = PrefixModel(frozen_model, config)
    model.load_kv_prefix(kv)
    return model


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
