"""Measuring examples in batches of like length, without gradients."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch

from pipeline.data.batching import Example, by_length
from pipeline.progress.bar import Bar

Result = TypeVar("Result")


def over_batches(
    measure: Callable[[list[Example]], Result],
    rows: Sequence[Example],
    lengths: Sequence[int] | np.ndarray,
    max_tokens: int,
    title: str | None,
    packed: bool = False,
) -> list[tuple[list[int], Result]]:
    """The indices of each batch, longest first, and what `measure` gives for its examples.

    `lengths` are what each example counts for within `max_tokens` (see `by_length`); `title` shows
    a progress bar.
    """
    results: list[tuple[list[int], Result]] = []
    bar = Bar(len(rows), title or "", "example", shown=title is not None)
    with torch.inference_mode(), bar:
        for indices in by_length(lengths, max_tokens, packed):
            results.append((indices, measure([rows[i] for i in indices])))
            bar.update(len(indices))
    return results


def in_order(batches: Sequence[tuple[list[int], Sequence[Result]]]) -> list[Result]:
    """What was measured of each example, in the order of the examples."""
    pairs = [pair for batch in batches for pair in zip(*batch, strict=True)]
    return [result for _, result in sorted(pairs, key=lambda pair: pair[0])]
