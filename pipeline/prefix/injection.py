"""Hooks that give a frozen transformers model its prefix, without touching its code.

Two kinds of hooks, both torch's public extension points. One on the model extends what the caller
passes (mask, positions, cache) by the prefix. One on each attention module gives the cache back
when gradient checkpointing has taken it away: transformers drops every cache from a checkpointed
layer, since replaying a layer would append its tokens twice; ours appends nothing in training.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pipeline.prefix.cache import PrefixCache
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.packed import merged_attention_on

_CACHE_NAMES = ("past_key_values", "layer_past", "past_key_value")


class Injection:
    """The hooks of one `PrefixModel` on its frozen model; `prefix` yields what they inject."""

    def __init__(self, model: PreTrainedModel, prefix: Callable[[], KVPrefix]) -> None:
        self._model = model
        self._prefix = prefix
        self._handles: list[RemovableHandle] = []
        self._cache: PrefixCache | None = None
        self._packed = False
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    @property
    def attached(self) -> bool:
        """Whether the frozen model sees the prefix now."""
        return bool(self._handles)

    def attach(self) -> None:
        """Add the hooks; nothing happens when they are there already."""
        if self._handles:
            return
        self._handles = [
            self._model.register_forward_pre_hook(self._before_model, with_kwargs=True),
            self._model.register_forward_hook(
                self._after_model, with_kwargs=True, always_call=True
            ),
        ]
        for module in self._model.modules():
            if name := _cache_argument(module):
                hook = self._attention_hook(name)
                self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def detach(self) -> None:
        """Remove every hook: the frozen model is as it was before."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def new_generation(self) -> PrefixCache:
        """An empty growing cache, for `generate` to carry from step to step."""
        return PrefixCache(self._prefix(), growing=True)

    def recompute_context(
        self,
    ) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """`context_fn` of torch's checkpointing: the replay meets its own forward's prefix."""
        if self._packed:
            return nullcontext(), self.packing()
        return nullcontext(), self._using(self._cache)

    @contextmanager
    def packing(self) -> Iterator[None]:
        """Stand aside for the packed path, which brings the prefix to the attention itself."""
        before, self._packed = self._packed, True
        try:
            with self._using(None), merged_attention_on(self._model):
                yield
        finally:
            self._packed = before

    @contextmanager
    def _using(self, cache: PrefixCache | None) -> Iterator[None]:
        before, self._cache = self._cache, cache
        try:
            yield
        finally:
            self._cache = before

    def _before_model(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self._packed:
            return args, kwargs
        bound = _by_name(module, args, kwargs)
        tokens = bound.get("input_ids")
        if tokens is None:
            tokens = bound.get("inputs_embeds")
        if tokens is None:
            raise PrefixError("give the model input_ids or inputs_embeds")
        batch, length = tokens.shape[:2]
        cache = bound.get("past_key_values")
        if cache is not None and not isinstance(cache, PrefixCache):
            if len(cache) and cache.get_seq_length():
                raise PrefixError(
                    "past_key_values holds tokens that never saw the prefix; leave it out, or pass "
                    "on the cache that this model returned"
                )
            cache = None
        if cache is None:
            cache = PrefixCache(self._prefix(), growing=bool(bound.get("use_cache")))
        past = cache.get_seq_length()
        p = cache.prefix_length
        mask = bound.get("attention_mask")
        if mask is None:
            mask = torch.ones(batch, past + length, dtype=torch.long, device=tokens.device)
        if mask.ndim != 2:
            raise PrefixError(
                "attention_mask must be [batch, tokens], with 1 for tokens to attend to"
            )
        if self._takes_positions:
            positions = bound.get("position_ids")
            if positions is None:
                # Counting real tokens only: left padding does not move what follows it.
                positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
            bound["position_ids"] = positions + p
        bound["attention_mask"] = torch.cat([mask.new_ones(batch, p), mask], dim=-1)
        bound["past_key_values"] = cache
        cache.inside_forward = True
        self._cache = cache
        return (), bound

    def _after_model(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        cache = kwargs.get("past_key_values")
        if isinstance(cache, PrefixCache):
            cache.inside_forward = False
            # A cache that kept nothing is of no use to the caller, and would hold the graph alive.
            grows = any(getattr(layer, "growing", False) for layer in cache.layers)
            if not grows and getattr(output, "past_key_values", None) is not None:
                output.past_key_values = None

    def _attention_hook(self, name: str) -> Callable[..., Any]:
        def give_cache(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            if kwargs.get(name) is not None or self._cache is None:
                return None
            return args, {**kwargs, name: self._cache}

        return give_cache


def _cache_argument(module: nn.Module) -> str | None:
    """The name under which an attention module takes the cache; None for any other module."""
    if not hasattr(module, "layer_idx") or "Attention" not in type(module).__name__:
        return None
    parameters = inspect.signature(module.forward).parameters
    return next((name for name in _CACHE_NAMES if name in parameters), None)


def _by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Positional arguments of a forward call under their names."""
    names = list(inspect.signature(module.forward).parameters)
    return {**dict(zip(names, args, strict=False)), **kwargs}
