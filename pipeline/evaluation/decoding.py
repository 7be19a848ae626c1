"""Decoding of a batch whose rows leave as they end."""

from collections.abc import Callable

import torch

Step = Callable[[list[int], torch.Tensor], torch.Tensor]
"""Logits `[rows, vocabulary]` after one more token `[rows]` of each row that goes on, which are
those of the given indices among the rows so far."""

Pick = Callable[[list[int], torch.Tensor], torch.Tensor]
"""The next tokens `[rows]` of the rows of these numbers, by their logits `[rows, vocabulary]`."""


def likeliest(_: list[int], logits: torch.Tensor) -> torch.Tensor:
    """The likeliest token of each row: greedy decoding."""
    return logits.argmax(-1)


def decode(
    first: torch.Tensor, step: Step, most: int, ends: set[int], pick: Pick = likeliest
) -> list[list[int]]:
    """The tokens that are picked step by step, for each row.

    Args:
        first: logits `[rows, vocabulary]` after each row's input.
        step: feeds the tokens that were chosen.
        most: tokens a row at the most.
        ends: tokens that end a row, kept like others.
        pick: chooses them.
    """
    texts: list[list[int]] = [[] for _ in first]
    rows = list(range(len(texts)))
    tokens = pick(rows, first)
    for count in range(1, most + 1):
        chosen = tokens.tolist()
        for row, token in zip(rows, chosen, strict=True):
            texts[row].append(token)
        going = [i for i, token in enumerate(chosen) if token not in ends]
        if not going or count == most:
            break
        rows = [rows[i] for i in going]
        tokens = pick(rows, step(going, tokens[going]))
    return texts
