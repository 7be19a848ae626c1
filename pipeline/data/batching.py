"""From tokenized examples to batches: the order of training, and padding."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

IGNORED = -100
"""The label of a position that is no target, as in transformers and torch."""

Example = Mapping[str, Any]
"""A row of the tokenized splits: at least `input_ids` and `target_start`."""


@dataclass(frozen=True)
class Batch:
    """Examples padded to one length, `[rows, tokens]` int64 each.

    On the left, targets end together. `labels` holds the target's tokens at their own positions
    (not shifted), `IGNORED` elsewhere.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor


def pad(
    examples: Sequence[Example], pad_token_id: int, device: torch.device, left: bool = True
) -> Batch:
    """One batch of examples, inputs and targets, padded on the left or on the right."""
    ids = [list(example["input_ids"]) for example in examples]
    starts = [example["target_start"] for example in examples]
    labels = [[IGNORED] * start + row[start:] for start, row in zip(starts, ids, strict=True)]
    return Batch(
        pad_rows(ids, pad_token_id, device, left),
        pad_rows([[1] * len(row) for row in ids], 0, device, left),
        pad_rows(labels, IGNORED, device, left),
    )


def pad_rows(
    rows: Sequence[Sequence[int]], value: int, device: torch.device, left: bool = False
) -> torch.Tensor:
    """Rows as one tensor `[rows, longest]`, int64, filled up with `value` on the right or left."""
    width = max(map(len, rows))
    filled = [
        [*[value] * (width - len(row)), *row] if left else [*row, *[value] * (width - len(row))]
        for row in rows
    ]
    return torch.tensor(filled, dtype=torch.long, device=device)


@dataclass(frozen=True)
class Packed:
    """Examples in one row, one after another: `input_ids` int64 `[tokens]`, the tokens of each
    example, and where in the row the target's tokens stand, int64 `[targets]`."""

    input_ids: torch.Tensor
    lengths: list[int]
    targets: torch.Tensor


def pack(examples: Sequence[Example], device: torch.device) -> Packed:
    """One row of examples, inputs and targets, without padding."""
    ids: list[int] = []
    targets: list[int] = []
    for example in examples:
        start = len(ids)
        ids.extend(example["input_ids"])
        targets.extend(range(start + example["target_start"], len(ids)))
    lengths = [len(example["input_ids"]) for example in examples]
    return Packed(torch.tensor(ids, device=device), lengths, torch.tensor(targets, device=device))


def training_order(
    examples: int, batch_size: int, seed: int, most: int | None = None
) -> Iterator[list[int]]:
    """Batches of example indices, a new seeded shuffle for every epoch.

    The last batch of an epoch may be smaller, so that an epoch meets each example once. They end
    with `most` examples, the last batch cut short where need be; None for batches without end.
    """
    draw = random.Random(seed)
    left = math.inf if most is None else most
    while left > 0:
        order = list(range(examples))
        draw.shuffle(order)
        order = order[: int(min(left, examples))]
        left -= len(order)
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]


def by_length(
    lengths: Sequence[int] | np.ndarray, max_tokens: int, packed: bool = False
) -> list[list[int]]:
    """Batches of like length for measuring: indices, longest first, within `max_tokens`.

    A batch counts its rows times its longest, or where it is `packed` the sum of its lengths. An
    example longer than `max_tokens` is a batch of its own.
    """
    batches: list[list[int]] = []
    used = 0
    for index in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        # Padded to the batch's longest, its first.
        added = lengths[index] if packed or not batches else lengths[batches[-1][0]]
        if batches and used + added <= max_tokens:
            batches[-1].append(index)
            used += added
        else:
            batches.append([index])
            used = lengths[index]
    return batches


def of_like_length(lengths: Sequence[int], waste: float = 0.1) -> list[list[int]]:
    """One batch split into parts, by position, so that at most `waste` of a part is padding.

    The gradient of the sum over the parts is that of the batch: only padding is saved.
    """
    parts: list[list[int]] = []
    real = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if parts:
            padded = lengths[parts[-1][0]] * (len(parts[-1]) + 1)
            if real + lengths[index] >= (1 - waste) * padded:
                parts[-1].append(index)
                real += lengths[index]
                continue
        parts.append([index])
        real = lengths[index]
    return parts


def parts_of_like_length(examples: Sequence[Example]) -> list[list[Example]]:
    """A batch in the parts that are padded apart (see `of_like_length`)."""
    lengths = [len(example["input_ids"]) for example in examples]
    return [[examples[i] for i in part] for part in of_like_length(lengths)]
