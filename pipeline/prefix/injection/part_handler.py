"""What puts a prefix before the keys and values of a model's attention calls, place by place."""

from collections import Counter
from typing import Any

import torch
from torch import nn

from pipeline.prefix.architecture.parts import Place
from pipeline.prefix.architecture.routing import AttentionCall
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.hiding import hiding
from pipeline.prefix.injection.windows import within
from pipeline.prefix.kv import KVPrefix

Pair = tuple[torch.Tensor, torch.Tensor]


class PartHandler:
    """Puts the prefix of each place before the keys and values of its attention calls."""

    def __init__(
        self,
        places: list[Place],
        biased: dict[str, Any],
        kv: KVPrefix,
        dtype: torch.dtype,
        window: int | None,
        counts: Counter[int],
        hidden: torch.Tensor | None,
        is_eager: bool,
    ) -> None:
        self._counts = counts
        self._is_eager = is_eager
        self._hidden = {
            (id(place.module), place.call): tokens
            for place, tokens in zip(places, () if hidden is None else hidden, strict=False)
        }
        self.length = len(kv)
        self._biased = biased
        self._window = window
        self._at: dict[tuple[int, int], tuple[Place, Pair]] = {
            (id(place.module), place.call): (place, (key.to(dtype), value.to(dtype)))
            for place, key, value in zip(places, kv.keys, kv.values, strict=True)
        }
        # How often each module was called in this pass, which layers that share one differ by.
        self._calls: dict[int, int] = {}

    def __copy__(self) -> "PartHandler":
        twin = object.__new__(PartHandler)
        twin.__dict__.update(self.__dict__, _calls=dict(self._calls))
        return twin

    def begin(self, stack: nn.Module) -> None:
        """A stack's next pass begins: its calls are counted anew."""
        for module in stack.modules():
            self._calls.pop(id(module), None)

    def __call__(self, call: AttentionCall) -> None:
        at = id(call.module), self._calls.get(id(call.module), 0)
        self._calls[at[0]] = at[1] + 1
        if 0 < self._counts[at[0]] <= at[1]:
            raise PrefixError(
                f"{type(call.module).__name__} is run more often in one pass than when its layers "
                "were counted, so a prefix has no place in the others; use a fixed depth"
            )
        if at not in self._at:
            return
        place, pair = self._at[at]
        key, value = (tensor.to(call.key.device) for tensor in pair)
        batch, queries, keys = call.key.shape[0], call.query.shape[2], call.key.shape[2]
        if (bias := call.extra.get("position_bias")) is not None:
            before = self._bias(place, call, queries, keys).to(bias.dtype)
            rows = max(len(before), len(bias))
            joined = [part.expand(rows, -1, -1, -1) for part in (before, bias)]
            call.extra = {**call.extra, "position_bias": torch.cat(joined, dim=-1)}
        call.mask = self._mask(place, call, queries, keys)
        call.key = torch.cat([key.expand(batch, -1, -1, -1), call.key], dim=2)
        call.value = torch.cat([value.expand(batch, -1, -1, -1), call.value], dim=2)
        if (hidden := self._hidden.get(at)) is not None and hidden.any():
            call.mask = hiding(call, hidden, self._is_eager)

    def _mask(
        self, place: Place, call: AttentionCall, queries: int, keys: int
    ) -> torch.Tensor | None:
        """The call's mask, with the prefix shown to every query, or to those within a window."""
        p, mask = self.length, call.mask
        if place.part == "encoder" and self._window and call.extra.get("sliding_window"):
            leading = _leading_padding(mask).to(call.key.device)
            near = within(self._window, leading, queries, p)
            if mask is None:
                mask = near.new_ones(1, 1, queries, keys)
            if mask.dtype != torch.bool:
                hidden = torch.finfo(mask.dtype).min
                near = torch.zeros_like(near, dtype=mask.dtype).masked_fill(~near, hidden)
            near = near.expand(mask.shape[0], mask.shape[1], -1, -1)
            return torch.cat([near, mask], dim=-1)
        if mask is None:
            if place.part != "decoder" or queries == 1:
                return None
            # transformers leaves out a mask that plain causality makes needless.
            whole = torch.ones(queries, p + keys, dtype=torch.bool, device=call.key.device)
            return whole.tril(p + keys - queries)[None, None]
        shown = True if mask.dtype == torch.bool else 0.0
        return torch.cat([mask.new_full((*mask.shape[:-1], p), shown), mask], dim=-1)

    def _bias(self, place: Place, call: AttentionCall, queries: int, keys: int) -> torch.Tensor:
        """The bias `[rows, heads, queries, p]` of a prefix that stands right before the input."""
        module = place.module if has_bias(place.module) else self._biased.get(place.part)
        p = self.length
        if module is None:
            # Cross-attention: positions weigh nothing in it.
            return call.key.new_zeros(1, call.query.shape[1], queries, p)
        # Padding that leads a row stands before the prefix, not between it and the row.
        leading = _leading_padding(call.mask)
        table = module.compute_bias(
            queries,
            p + int(leading.max()),
            device=call.key.device,
            past_seen_tokens=p + keys - queries,
        )[0]
        columns = leading[:, None] + torch.arange(p, device=leading.device)
        return table[:, :, columns].permute(2, 0, 1, 3)


def has_bias(module: Any) -> bool:
    """Whether an attention has a table of relative positions of its own (T5's kin)."""
    return hasattr(module, "compute_bias") and hasattr(module, "relative_attention_bias")


def _leading_padding(mask: torch.Tensor | None) -> torch.Tensor:
    """How many hidden keys lead each row of a mask `[rows, 1, queries, keys]`: `[rows]`."""
    if mask is None:
        return torch.zeros(1, dtype=torch.long)
    seen = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > torch.finfo(mask.dtype).min / 2
    # A query near the end may be far from what is hidden by a window, not by padding.
    return seen.any(dim=1).long().argmax(dim=-1)
