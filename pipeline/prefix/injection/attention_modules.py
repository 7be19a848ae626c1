"""A causal model's modules that take the cache: which they are, and what their calls are given."""

import inspect
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.layout import causal_mask, show_prefix

CACHE_NAMES = ("past_key_values", "layer_past", "past_key_value", "cache_params")
"""The names under which modules of transformers take a cache."""

_INDEX_NAMES = ("layer_idx", "layer_id")


def masked(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    is_prefix: torch.Tensor,
    show: bool,
) -> dict[str, Any]:
    """An attention's keywords with the prefix shown in its mask, or hidden.

    Raises PrefixError for masks of another form than `[batch, 1, queries, keys]`.
    """
    states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    mask, is_prefix = kwargs.get("attention_mask"), is_prefix.to(states.device)
    if mask is None:
        if show:
            return kwargs
        mask = causal_mask(module, is_prefix, states.shape[1], states.dtype)
    if not torch.is_tensor(mask):
        raise PrefixError(
            f"{type(module).__name__} takes several masks at once, in none of which a prefix can "
            "be shown or hidden; leave out layers, prefix_always_visible and hidden virtual tokens"
        )
    return {**kwargs, "attention_mask": show_prefix(mask, is_prefix, show, _true_hides(module))}


def _true_hides(module: nn.Module) -> bool:
    """MPT alone turns transformers' mask around: true where a key is hidden."""
    return type(module).__name__ == "MptAttention"


def layer_index(module: nn.Module) -> int | None:
    """The index of the layer that an attention module is of; None for any other module."""
    found = (getattr(module, name, None) for name in _INDEX_NAMES)
    return next((index for index in found if isinstance(index, int)), None)


def called_layer(module: nn.Module, kwargs: dict[str, Any]) -> int | None:
    """The layer that a call is of: layers that share a module name themselves in its call."""
    given = kwargs.get("layer_idx")
    return given if isinstance(given, int) else layer_index(module)


def attends(module: nn.Module) -> bool:
    """Whether a module is an attention, which takes a mask of keys."""
    return "Attention" in type(module).__name__


def cache_argument(module: nn.Module, recurrent: bool = False) -> str | None:
    """The name under which an attention module takes the cache; None for any other module.

    With `recurrent` modules that take it for their states count too (convolutions, recurrences).
    """
    if layer_index(module) is None or isinstance(module, GradientCheckpointingLayer):
        return None
    if not (attends(module) or recurrent):
        return None
    parameters = inspect.signature(module.forward).parameters
    return next((name for name in CACHE_NAMES if name in parameters), None)


def beyond_states(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An attention's call with its states in place and all else, mask and cache, under its name.

    Some models pass the mask and the cache on by position.
    """
    if len(args) < 2:
        return args, kwargs
    names = list(inspect.signature(module.forward).parameters)[1:]
    return args[:1], {**dict(zip(names, args[1:], strict=False)), **kwargs}


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Positional arguments of a forward call under their names."""
    names = list(inspect.signature(module.forward).parameters)
    return {**dict(zip(names, args, strict=False)), **kwargs}
