"""Keys and values of one layer's packed rows while they are decoded, the prefix kept once."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from pipeline.prefix.packed.call import PLAIN, Tensor, Terms
from pipeline.prefix.packed.lengths import counts_of
from pipeline.prefix.packed.parts import Parts, merge
from pipeline.prefix.packed.scores import attend_where


class LayerCache(Protocol):
    """Made of a packed row's `key` and `value` `[num_kv_heads, tokens, dim]`, the lengths of its
    examples, how many tokens of each are kept, and the room for each row's tokens."""

    def join(self, other: Any, numbers: list[int]) -> None:
        """Take the rows of another cache of this kind, which get these numbers here."""
        ...

    def leave(self, rows: Sequence[int]) -> None:
        """Let rows go, where that frees memory at no cost; `attend` does in any case."""
        ...

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix: tuple[Tensor, Tensor] | None,
        rows: list[int],
        counts: list[int],
        scaling: float,
        terms: Terms = PLAIN,
    ) -> Tensor:
        """Append a token a row and attend to all of its row, and to the prefix.

        Args:
            query: `[num_heads, rows, dim]`; `key` and `value` `[num_kv_heads, rows, dim]`.
            prefix: keys and values `[num_kv_heads, p, dim]` on any device, in any float dtype; the
                same for all tokens of a cache.
            rows: the numbers of the rows that go on, ascending; others are dropped.
            counts: tokens that each of them has already.
            scaling: what scores are multiplied by before the softmax.
            terms: windows, chunks, softcaps and sinks.

        Returns:
            `[num_heads, rows, dim]` in the query's dtype.
        """
        ...


class PartsCache:
    """A `LayerCache` on any device: attention to the prefix and to the own tokens, merged."""

    def __init__(
        self,
        parts: Parts,
        key: Tensor,
        value: Tensor,
        packed: list[int],
        kept: list[int],
        rooms: list[int],
    ) -> None:
        self._parts = parts
        room = max(rooms)
        # Zeros: what is hidden gets no weight, and no weight of a NaN is one.
        self._keys, self._values = (
            t.new_zeros(len(packed), t.shape[0], room, t.shape[-1]) for t in (key, value)
        )
        for states, cache in ((key, self._keys), (value, self._values)):
            for row, (own, count) in enumerate(zip(states.split(packed, 1), kept, strict=True)):
                cache[row, :, :count] = own[:, :count]
        self._rows = list(range(len(packed)))
        self._gone: set[int] = set()
        self._prefix: tuple[Tensor, Tensor] | None = None

    @classmethod
    def by(cls, parts: Parts) -> "Callable[..., PartsCache]":
        """The cache whose queries attend to the prefix by these kernels."""
        return partial(cls, parts)

    def join(self, other: "PartsCache", numbers: list[int]) -> None:
        """See `LayerCache.join`: a copy of both, as long as the longer needs it."""
        room = max(self._keys.shape[2] if self._rows else 0, other._keys.shape[2])
        states = ((self._keys, other._keys), (self._values, other._values))
        self._keys, self._values = (
            torch.cat([_of_room(own, room), _of_room(theirs, room)]) for own, theirs in states
        )
        self._rows = [*self._rows, *numbers]

    def leave(self, rows: Sequence[int]) -> None:
        """See `LayerCache.leave`: what is kept in one tensor would be copied for each."""
        self._gone.update(rows)
        if self._gone.issuperset(self._rows):
            self._leave_out_all_but([])

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix: tuple[Tensor, Tensor] | None,
        rows: list[int],
        counts: list[int],
        scaling: float,
        terms: Terms = PLAIN,
    ) -> Tensor:
        """See `LayerCache.attend`."""
        self._leave_out_all_but(rows)
        at = counts_of(counts, key.device)
        row = torch.arange(len(rows), device=key.device)
        self._keys[row, :, at] = key.transpose(0, 1)
        self._values[row, :, at] = value.transpose(0, 1)
        if prefix is not None and self._prefix is None:
            self._prefix = prefix[0].to(query), prefix[1].to(query)
        if terms.names:
            return self._by_scores(query, counts, scaling, terms)
        out, lse = self._within(query, at, max(counts) + 1, scaling)
        if self._prefix is not None:
            out, lse = merge(out, lse, *self._parts.to_prefix(query, *self._prefix, scaling))
        return out.to(query.dtype)

    def _by_scores(self, query: Tensor, counts: list[int], scaling: float, terms: Terms) -> Tensor:
        """Attention of each row to its own tokens and the prefix, in one softmax."""
        longest, device = max(counts) + 1, query.device
        near = torch.arange(longest, device=device)
        keys, values = (t[:, :, :longest] for t in (self._keys, self._values))
        seen = near <= counts_of(counts, device)[:, None]
        horizon = None if terms.sight is None else terms.sight.of_tokens(counts)
        if horizon is not None:
            seen &= near >= torch.tensor(horizon.own, device=device)[:, None]
        if self._prefix is not None:
            far = torch.arange(self._prefix[0].shape[1], device=device).expand(len(counts), -1)
            firsts = [0] * len(counts) if horizon is None else horizon.prefix
            seen = torch.cat([far >= torch.tensor(firsts, device=device)[:, None], seen], 1)
            keys, values = (
                torch.cat([prefix.expand(len(counts), -1, -1, -1), own], 2)
                for prefix, own in zip(self._prefix, (keys, values), strict=True)
            )
        states = query.transpose(0, 1).unsqueeze(2), keys, values
        out = attend_where(*states, seen[:, None, None, None], scaling, terms)
        return out.squeeze(2).transpose(0, 1)

    def _within(
        self, query: Tensor, at: Tensor, longest: int, scaling: float
    ) -> tuple[Tensor, Tensor]:
        """Attention of each row to its own tokens, float32 at least."""
        dtype = torch.promote_types(query.dtype, torch.float32)
        keys, values = (t[:, :, :longest].to(dtype) for t in (self._keys, self._values))
        # The heads of a group stand beside each other.
        grouped = query.transpose(0, 1).unflatten(1, (keys.shape[1], -1)).to(dtype)
        scores = grouped @ keys.transpose(2, 3) * scaling
        unseen = torch.arange(longest, device=at.device) > at[:, None]
        scores = scores.masked_fill(unseen[:, None, None], -torch.inf)
        lse = scores.logsumexp(-1)
        out = (scores - lse.unsqueeze(-1)).exp() @ values
        return out.flatten(1, 2).transpose(0, 1), lse.flatten(1, 2).transpose(0, 1)

    def _leave_out_all_but(self, rows: list[int]) -> None:
        """Rows that have ended are dropped once, not passed over at every token."""
        if rows != self._rows:
            places = [self._rows.index(row) for row in rows]
            kept = torch.tensor(places, dtype=torch.long, device=self._keys.device)
            self._keys, self._values = (t[kept] for t in (self._keys, self._values))
            self._rows = list(rows)
            self._gone.clear()


def _of_room(states: Tensor, room: int) -> Tensor:
    """`[rows, heads, tokens, dim]` with zeros behind, or without what no row needs any more."""
    return F.pad(states, (0, 0, 0, room - states.shape[2]))
