"""A frozen model with a prefix that is there already."""

from transformers import PreTrainedModel

from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel


def prefixed_model(
    frozen_model: PreTrainedModel, kv: KVPrefix | None, prefix_always_visible: bool = False
) -> PrefixModel:
    """The frozen model with a prefix as it is, and the modules that were trained beside it.

    None is the empty prefix: the frozen model alone.

    Raises PrefixError for one that was made for another model, or leaves no room in its context.
    """
    if kv is None:
        return PrefixModel(frozen_model)
    config = PrefixConfig(
        num_virtual_tokens=len(kv),
        layers=kv.layers,
        prefix_always_visible=prefix_always_visible,
        parts=None if kv.parts is None else tuple(dict.fromkeys(kv.parts)),
        modules_to_save=tuple(dict.fromkeys(n.rpartition(".")[0] for n in sorted(kv.modules))),
    )
    model = PrefixModel(frozen_model, config)
    model.load_kv_prefix(kv)
    return model
