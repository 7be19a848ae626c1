"""Which tokens of a text belong to each of its parts."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, pairwise, takewhile

Tokens = Callable[[str], list[int]]


def token_spans(
    text: str, starts: Iterable[int | None], tokens_in: Tokens, most: int
) -> list[tuple[int, int]] | None:
    """Of each part of a text its first token, and one past its last, within the first `most`.

    A token that holds the end of a part and the beginning of the next is in both. What stands
    before the first part, and what begins a text (BOS), is in none.

    Args:
        text: all of it.
        starts: the character that each part begins with; None where no more are known.
        tokens_in: the tokens of a text, special ones at its ends included.
        most: tokens of the text that matter; parts after them are left out.

    Returns:
        None where a start is needed that is not known.
    """
    whole = tokens_in(text)
    bounds: list[tuple[int, int]] = []
    for at in chain(starts, [len(text)]):
        if at is None:
            return None
        bounds.append(_bounds(text, at, whole, tokens_in))
        if bounds[-1][0] >= most:
            break
    return [(start, min(stop, most)) for (start, _), (_, stop) in pairwise(bounds) if start < most]


def _bounds(text: str, at: int, whole: Sequence[int], tokens_in: Tokens) -> tuple[int, int]:
    """How many of the text's tokens surely end before a character, and how many begin before it."""
    if at == len(text):
        return len(whole), len(whole)
    before = tokens_in(text[:at])
    first = _alike(before, whole)
    if first == len(before):
        return first, first
    after = tokens_in(text[at:])
    return first, max(first, len(whole) - _alike(after[::-1], whole[::-1]))


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens two texts share."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
