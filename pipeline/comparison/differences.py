"""Where a generated text differs from its reference, word by word."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

# Signs that are written without spaces between words count as words.
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\d+(?:[.,]\d+)*|\w+|[^\w\s]|\s+")
_IS_WORD = re.compile(r"\w")

LONGEST = 300
"""Words above which texts are not compared: the time grows with the square."""


@dataclass(frozen=True)
class Piece:
    """A part of a text: in both, only generated (extra), or only in the reference (missing)."""

    text: str
    kind: Literal["same", "extra", "missing"]


def differences(text: str, references: Sequence[str]) -> list[Piece]:
    """The text in pieces, against the reference that it is nearest to.

    A text that has no word of it, or is too long to compare, is one piece.
    """
    words = _WORDS.findall(text)
    whole = [Piece(text, "same")]
    if not references or len(words) > LONGEST:
        return whole
    compared = []
    for reference in references:
        others = _WORDS.findall(reference)
        if len(others) <= LONGEST:
            compared.append((SequenceMatcher(None, others, words, autojunk=False), others))
    if not compared:
        return whole
    matcher, others = max(compared, key=lambda pair: pair[0].ratio())
    same = [words[block.b : block.b + block.size] for block in matcher.get_matching_blocks()]
    if not any(_IS_WORD.search(word) for block in same for word in block):
        return [Piece(text, "extra")] if text else []
    pieces: list[Piece] = []
    for _, from_other, to_other, start, end in matcher.get_opcodes():
        lost, written = "".join(others[from_other:to_other]), "".join(words[start:end])
        if lost == written:
            pieces.append(Piece(written, "same"))
            continue
        if lost.strip():
            pieces.append(Piece(lost, "missing"))
        if written:
            pieces.append(Piece(written, "extra" if written.strip() else "same"))
    return pieces
