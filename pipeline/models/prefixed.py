"""A frozen model with a prefix that is there already."""

from transformers import PreTrainedModel

from pipeline.prefix import KVPrefix, PrefixModel
from pipeline.prefix.architecture.fitting import config_holding


def prefixed_model(
    frozen_model: PreTrainedModel, kv: KVPrefix | None, prefix_always_visible: bool = False
) -> PrefixModel:
    """The frozen model with a prefix as it is, and the modules that were trained beside it.

    None is the empty prefix: the frozen model alone.

    Raises PrefixError for one that was made for another model, or leaves no room in its context.
    """
    if kv is None:
        return PrefixModel(frozen_model)
    model = PrefixModel(frozen_model, config_holding(frozen_model, kv, prefix_always_visible))
    model.load_kv_prefix(kv)
    return model
