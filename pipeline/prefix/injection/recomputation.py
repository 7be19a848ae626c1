"""Gradient checkpointing of a frozen model that stays in evaluation mode.

transformers recomputes layers in training mode alone, in which it also drops out: states, attention
weights, whole layers. Here the two are apart: while a `PrefixModel` computes a training step, the
forward of each layer runs through torch's checkpointing, in evaluation mode.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.cache import PrefixCache

Contexts = Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]
_CACHES = ("past_key_values", "layer_past", "past_key_value")


class Recomputation:
    """Keeps no activations inside a model's layers.

    Args:
        model: the frozen model.
        context_fn: what a layer's first run and its recomputation happen within.

    Raises:
        PrefixError: when transformers does not say which layers can be recomputed.
    """

    def __init__(self, model: PreTrainedModel, context_fn: Contexts) -> None:
        layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not layers:
            raise PrefixError(
                f"{type(model).__name__} has no layers that transformers can recompute; train it "
                "without gradient checkpointing"
            )
        self._forwards = [(layer, _recomputing(layer, context_fn)) for layer in layers]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the layers be recomputed in the backward pass of what is computed now."""
        before = [layer.__dict__.get("forward") for layer, _ in self._forwards]
        for layer, forward in self._forwards:
            layer.forward = forward
        try:
            yield
        finally:
            for (layer, _), own in zip(self._forwards, before, strict=True):
                if own is None:
                    del layer.forward
                else:
                    layer.forward = own


def _recomputing(layer: nn.Module, context_fn: Contexts) -> Callable[..., Any]:
    own: Callable[..., Any] = layer.forward
    names = list(inspect.signature(own).parameters)

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if not torch.is_grad_enabled() or any(_appends(given.get(name)) for name in _CACHES):
            return own(*args, **kwargs)
        return checkpoint(own, *args, use_reentrant=False, context_fn=context_fn, **kwargs)

    return forward


def _appends(cache: Any) -> bool:
    """Whether a layer would append its tokens again when it is recomputed."""
    if cache is None:
        return False
    return not isinstance(cache, PrefixCache) or cache.growing
