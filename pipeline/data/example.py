"""The splits, and a row of one once it is tokenized."""

from typing import NotRequired, TypedDict

SPLITS = ("train", "validation", "test", "test_unseen")
"""The splits in the pipeline's order; `test_unseen` holds topics that training never saw."""


class TokenizedExample(TypedDict):
    """One row of the tokenized splits.

    `input_ids` holds the input followed by the target, which begins at `target_start` and ends
    with the token that ends a turn, so that generation learns to stop. A classifier's target is
    the ids of its labels; with a label a word, `positions` holds each word's first token. Of the
    input's tokens the first `beginning` begin a text (BOS); where the data give several turns,
    `turns` holds those of the input as JSON.
    """

    id: str
    input_ids: list[int]
    target_start: int
    input: str
    target: str
    references: list[str]
    positions: NotRequired[list[int]]
    beginning: NotRequired[int]
    turns: NotRequired[str]
