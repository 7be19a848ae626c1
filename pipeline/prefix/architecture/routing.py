"""A frozen model's attention calls, seen and changed on their way, through `AttentionInterface`.

Encoders and cross-attention have no growing KV cache to come in through. What every attention of
a transformers model does have is a call of the function that its configuration names, with query,
keys, values and mask ready. While a model is routed, that function is ours: it shows the call to a
handler, and passes what the handler returns on to the implementation that the model had before:
`eager`, or `sdpa` also in place of FlashAttention and FlexAttention, whose masks hold no prefix.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from pipeline.prefix.architecture.turns import turn_of
from pipeline.prefix.errors import PrefixError

_NAMES = {"sdpa": "prefix_over_sdpa", "eager": "prefix_over_eager"}


@dataclass
class AttentionCall:
    """One attention about to be computed.

    Attributes:
        module: the attention module that asks.
        query: `[batch, heads, queries, head_dim]`.
        key: `[batch, num_kv_heads, keys, head_dim]`, `value` likewise.
        mask: `[batch, 1, queries, keys]`, boolean (true for keys to attend to) or added to the
            scores; None where the module's causality alone says it all.
        extra: the other keywords, among them `position_bias` `[1, heads, queries, keys]`.
        function: the attention that the call goes on to.
    """

    module: Any
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    extra: dict[str, Any] = field(default_factory=dict)
    function: Callable[..., Any] = sdpa_attention_forward

    def output(self) -> Any:
        """What the attention returns of the call as it is; first `[batch, queries, heads, dim]`."""
        return self.function(self.module, self.query, self.key, self.value, self.mask, **self.extra)


Handler = Callable[[AttentionCall], None]
"""Reads a call, or changes it in place."""


class _Handlers(threading.local):
    """The handlers at work in this thread, the last one in charge."""

    def __init__(self) -> None:
        self.stack: list[Handler] = []


_handlers = _Handlers()


@contextmanager
def routed(model: PreTrainedModel, handler: Handler) -> Iterator[None]:
    """Show every attention call of `model` to `handler`; the model is as before afterwards.

    Raises PrefixError for a model that computes its attention itself.
    """
    if not reaches_attention(model):
        raise PrefixError(
            f"{type(model).__name__} computes its attention itself, out of reach of transformers' "
            "AttentionInterface, so its attention has no place for a prefix"
        )
    with turn_of(model):
        before = model.config._attn_implementation
        # Already routed: the inner handler replaces the outer one.
        name = _NAMES["eager" if before == "eager" else "sdpa"]
        name = before if before in _NAMES.values() else name
        model.set_attn_implementation(name)
        _handlers.stack.append(handler)
        try:
            yield
        finally:
            _handlers.stack.pop()
            model.set_attn_implementation(before)


def reaches_attention(model: PreTrainedModel) -> bool:
    """Whether the model lets its attention function be chosen."""
    return bool(model._can_set_attn_implementation())


def _routed_to(choose: Callable[[Any], Callable[..., Any]]) -> Callable[..., Any]:
    def forward(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> Any:
        call = AttentionCall(module, query, key, value, attention_mask, kwargs, choose(module))
        # None where another thread calls the bare model while it is routed.
        if _handlers.stack:
            _handlers.stack[-1](call)
        return call.output()

    return forward


def _eager(module: Any) -> Callable[..., Any]:
    """The plain attention of the file that defines the module, as transformers itself takes it."""
    function: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
    return function


AttentionInterface.register(_NAMES["sdpa"], _routed_to(lambda _: sdpa_attention_forward))
AttentionInterface.register(_NAMES["eager"], _routed_to(_eager))
AttentionMaskInterface.register(_NAMES["sdpa"], sdpa_mask)
AttentionMaskInterface.register(_NAMES["eager"], eager_mask)
