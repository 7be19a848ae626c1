"""Compiling the frozen model's layers for packed rows, and undoing it."""

import torch
from transformers import AttentionInterface, PreTrainedModel

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.packed.logits import NAME, attend


def compile_layers(frozen_model: PreTrainedModel) -> None:
    """Let torch compile each decoder layer for packed rows, attention itself left as it is.

    Norms, rotary embedding and activations become one pass each; the layers share one compiled
    graph, made at their first call. `torch.compiler.set_stance("force_eager")` runs them as before.

    Raises:
        PrefixError: when transformers does not name the model's layers.
    """
    layers = _layers(frozen_model)
    if not layers:
        raise PrefixError(f"{type(frozen_model).__name__} does not name its layers; do not compile")
    AttentionInterface.register(NAME, torch.compiler.disable(attend))
    for layer in layers:
        layer.compile(dynamic=True)


def are_layers_compiled(frozen_model: PreTrainedModel) -> bool:
    """Whether `compile_layers` was called, and not undone since."""
    return any(layer._compiled_call_impl is not None for layer in _layers(frozen_model))


def uncompile_layers(frozen_model: PreTrainedModel) -> None:
    """Have each layer run as it is again; nothing where none was compiled."""
    for layer in _layers(frozen_model):
        layer._compiled_call_impl = None
    AttentionInterface.register(NAME, attend)


def _layers(frozen_model: PreTrainedModel) -> list[torch.nn.Module]:
    names = set(getattr(frozen_model, "_no_split_modules", None) or ())
    return [module for module in frozen_model.modules() if type(module).__name__ in names]
