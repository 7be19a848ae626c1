"""Packed examples as padded rows of like length, for attention to each example itself."""

import itertools
from dataclasses import dataclass

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class Rows:
    """Examples of like length, to attend to themselves as one padded batch.

    Attributes:
        gather: `[rows, longest]` places of their tokens in the packed row; padding on the right
            repeats a row's last token, which causality hides from the row's own.
        is_real: `[rows, longest]`, false for padding.
    """

    gather: Tensor
    is_real: Tensor

    @property
    def places(self) -> Tensor:
        """The places `[tokens of these rows]` without padding."""
        return self.gather[self.is_real]


def rows_of_like_length(lengths: list[int], device: torch.device) -> list[Rows]:
    """All examples of a packed row, in groups in which the longest is at most twice the shortest.

    One kernel call serves a group; padding costs less than calls for every example would.
    """
    starts = [0, *itertools.accumulate(lengths)]
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and 2 * lengths[index] >= lengths[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    result = []
    for group in groups:
        place = torch.arange(lengths[group[0]], device=device)[None]
        start, length = (
            torch.tensor([values[i] for i in group], device=device)[:, None]
            for values in (starts, lengths)
        )
        result.append(Rows(start + torch.minimum(place, length - 1), place < length))
    return result


def batched(states: Tensor, rows: Rows) -> Tensor:
    """`[heads, tokens, ...]` as `[rows, heads, longest, ...]`."""
    return states[:, rows.gather].transpose(0, 1)


def packed(states: Tensor, rows: Rows) -> Tensor:
    """The inverse of `_batched`, for the tokens of these rows alone."""
    return states.transpose(0, 1)[:, rows.is_real]
