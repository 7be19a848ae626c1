"""The caches of rows that are computed by groups, step after step.

Where a model counts places in its cache, caches that are put together would give a row other places
than it has alone. So each group keeps its own.
"""

from dataclasses import dataclass
from typing import Any

import torch

from pipeline.prefix.errors import PrefixError


@dataclass(frozen=True)
class RowGroup:
    """Rows `[n]` of a batch, with so many columns of padding before each."""

    rows: torch.Tensor
    leading: int


class CachesApart:
    """A cache for each group of a batch's rows.

    Args:
        groups: the rows of each.
        caches: `PrefixCache`s that hold their tokens, without padding.
    """

    def __init__(self, groups: list[RowGroup], caches: list[Any]) -> None:
        self.groups = groups
        self.caches = caches

    @property
    def rows(self) -> int:
        """Of the whole batch."""
        return sum(len(group.rows) for group in self.groups)

    def take(self, source: torch.Tensor) -> None:
        """Let row `source[i]` be row i, as beam search does, or a choice or a copy of rows."""
        kept = []
        for group, cache in zip(self.groups, self.caches, strict=True):
            among = source.to(group.rows.device)[:, None] == group.rows
            rows = among.any(-1).nonzero()[:, 0]
            if not len(rows):
                continue
            cache.batch_select_indices(among[rows].long().argmax(-1))
            kept.append((RowGroup(rows, group.leading), cache))
        self.groups = [group for group, _ in kept]
        self.caches = [cache for _, cache in kept]

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens of every row, of which there are `-tokens_to_remove`.

        Raises PrefixError where a row has fewer.
        """
        if any(-tokens_to_remove > cache.get_seq_length() for cache in self.caches):
            raise PrefixError("a row has fewer tokens than are to be taken back from its cache")
        for cache in self.caches:
            cache.crop(tokens_to_remove)
