"""A packed row: its examples, the prefix before them, and what of it a layer shows."""

from dataclasses import dataclass, replace

import torch

from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.packed.cache import PackedCache
from pipeline.prefix.packed.sight import Sight


@dataclass(frozen=True)
class Packing:
    """What the attention needs to know of a packed row; a keyword carries it through the model."""

    lengths: list[int]
    prefix: KVPrefix | None
    cache: PackedCache | None = None
    decoding: bool = False
    hidden: torch.Tensor | None = None
    prefix_always_visible: bool = False
    groups: tuple["Packing", ...] = ()
    """Of a row whose examples follow different prefixes: one packing a prefix, in their order."""

    def pair(self, layer: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The prefix's keys and values in a layer, without hidden tokens; None for none."""
        pair = None if self.prefix is None else self.prefix.layer(layer)
        if pair is None or self.hidden is None:
            return pair
        shown = ~self.hidden[layer].to(pair[0].device)
        return (pair[0][:, shown], pair[1][:, shown]) if bool(shown.any()) else None

    def sight(self, layer: int, shown: Sight | None) -> Sight | None:
        """What a layer shows of these examples, of what its mask shows; None where that is all."""
        if shown is None or not shown.hides(self.longest):
            return None
        p = 0 if self.prefix is None else len(self.prefix)
        places: range | tuple[int, ...] = range(p)
        if self.hidden is not None:
            places = tuple((~self.hidden[layer]).nonzero().flatten().tolist())
        return replace(
            shown, start=p, places=places, prefix_always_visible=self.prefix_always_visible
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest example, those decoded before and the prefix included."""
        if self.groups:
            return max(group.longest for group in self.groups)
        cache = self.cache if self.decoding else None
        before = [0] if cache is None else [cache.counts[row] for row in cache.rows]
        return max(self.lengths) + max(before) + (0 if self.prefix is None else len(self.prefix))

    @property
    def row(self) -> int:
        """Tokens of the row, the longest prefix included."""
        lengths = [0 if part.prefix is None else len(part.prefix) for part in self.parts]
        return max(lengths) + sum(self.lengths)

    @property
    def parts(self) -> tuple["Packing", ...]:
        """The packings of one prefix each."""
        return self.groups or (self,)
