"""Gradient checkpointing of a frozen model that stays in evaluation mode.

transformers recomputes layers in training mode alone, in which it also drops out: states, attention
weights, whole layers. Here the two are apart: while a `PrefixModel` computes a training step, the
forward of each layer that transformers was asked to recompute runs through its checkpointing, in
evaluation mode.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.prefix.architecture.parts import evaluating
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.attention_modules import CACHE_NAMES
from pipeline.prefix.injection.cache import PrefixCache
from pipeline.prefix.injection.replay import recompute_context


class Recomputation:
    """The layers of a frozen model whose activations can be recomputed in the backward pass."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    @property
    def _layers(self) -> list[GradientCheckpointingLayer]:
        return [m for m in self._model.modules() if isinstance(m, GradientCheckpointingLayer)]

    @property
    def _outermost(self) -> list[GradientCheckpointingLayer]:
        """Those asked for that are in none that was asked for, which is recomputed as a whole."""
        asked = [layer for layer in self._layers if layer.gradient_checkpointing]
        within = {id(inner) for layer in asked for inner in layer.modules() if inner is not layer}
        return [layer for layer in asked if id(layer) not in within]

    @property
    def is_asked_for(self) -> bool:
        """Whether transformers was asked to recompute any of them."""
        return any(layer.gradient_checkpointing for layer in self._layers)

    @property
    def is_replayed(self) -> bool:
        """Whether all that transformers recomputes meets what it met before (`replayed_within`)."""
        asked = (m for m in self._model.modules() if getattr(m, "gradient_checkpointing", False))
        return all(_is_replayed(module) for module in asked)

    def refuse_without_layers(self) -> None:
        """Raise PrefixError when transformers does not say which layers can be recomputed."""
        if not (self._layers and self._model.supports_gradient_checkpointing):
            raise PrefixError(
                f"{type(self._model).__name__} has no layers that transformers can recompute; "
                "train it without gradient checkpointing"
            )

    @contextmanager
    def active(self) -> Iterator[None]:
        """Recompute what is computed now, in the layers that were asked for."""
        layers = self._outermost
        before = [layer.__dict__.get("forward") for layer in layers]
        for layer in layers:
            layer.forward = _recomputing(layer)
        try:
            yield
        finally:
            for layer, own in zip(layers, before, strict=True):
                if own is None:
                    del layer.forward
                else:
                    layer.forward = own


def _recomputing(layer: nn.Module) -> Callable[..., Any]:
    own = _evaluated(layer)
    names = list(inspect.signature(layer.forward).parameters)
    checkpointed = _function_of(layer)

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if not torch.is_grad_enabled() or any(_appends(given.get(name)) for name in CACHE_NAMES):
            return own(*args, **kwargs)
        return checkpointed(partial(own, **kwargs), *args)

    return forward


def _evaluated(layer: nn.Module) -> Callable[..., Any]:
    """A layer's forward in evaluation mode, in the backward pass too.

    By then the model's mode is again that of whoever else trains it.
    """
    own: Callable[..., Any] = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with evaluating(layer):
            return own(*args, **kwargs)

    return forward


def _function_of(layer: nn.Module) -> Callable[..., Any]:
    """What a layer runs through, with the settings that it was asked for with."""
    if _is_replayed(layer):
        return cast(Callable[..., Any], layer._gradient_checkpointing_func)
    # Asked of the frozen model itself, which knows of no prefix.
    return partial(checkpoint, use_reentrant=False, context_fn=recompute_context)


def _is_replayed(module: nn.Module) -> bool:
    asked = getattr(module, "_gradient_checkpointing_func", None)
    return getattr(asked, "keywords", {}).get("context_fn") is recompute_context


def _appends(cache: Any) -> bool:
    """Whether a layer would append its tokens again when it is recomputed."""
    if cache is None:
        return False
    return not isinstance(cache, PrefixCache) or cache.growing
