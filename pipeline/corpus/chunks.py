"""Cutting a text into chunks of tokens, between paragraphs or sentences where it can be."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NEAR = 64  # characters to either side of a cut that say what kind of place it is
_PARAGRAPH, _SENTENCE, _LINE, _WORD, _WITHIN_WORD, _WITHIN_CHARACTER = range(5, -1, -1)
_SENTENCE_END = re.compile(r"""[.!?\u2026\u3002\uff01\uff1f]["'\u201d\u2019)\]]*$""")


@dataclass(frozen=True)
class Chunk:
    """A part of a text: its characters, and its tokens `[n]` as they are within the whole text."""

    text: str
    token_ids: list[int]


def chunks_of(text: str, tokenizer: "PreTrainedTokenizerBase", chunk_tokens: int) -> list[Chunk]:
    """The chunks of a text, one after another: every token and every character is in one of them.

    They are of at most `chunk_tokens` and about equally long, so that none is a small remainder.
    A cut lies at the end of a paragraph if there is one within a quarter of a chunk,
    else at the end of a sentence, a line, or a word. A tokenizer in Python, which does not say
    where its tokens lie in the text, is cut by the number of tokens alone. No BOS is added.
    """
    if not tokenizer.is_fast:
        ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
        pieces = chunked(ids, chunk_tokens)
        return [Chunk(tokenizer.decode(piece), piece) for piece in pieces]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    chunks, start, begin = [], 0, 0
    while start < len(ids):
        stop = _cut(text, offsets, start, chunk_tokens)
        # The blanks between two tokens belong to the second, as in most vocabularies.
        end = len(text) if stop == len(ids) else max(begin, offsets[stop - 1][1])
        chunks.append(Chunk(text[begin:end], list(ids[start:stop])))
        start, begin = stop, end
    return chunks


def chunked(token_ids: Sequence[int], chunk_tokens: int) -> list[list[int]]:
    """The tokens in as few pieces of at most `chunk_tokens` as there can be, about equally long."""
    pieces, start = [], 0
    while start < len(token_ids):
        stop = start + _even(len(token_ids) - start, chunk_tokens)
        pieces.append(list(token_ids[start:stop]))
        start = stop
    return pieces


def _even(tokens: int, most: int) -> int:
    """How many of these tokens the next of equal pieces holds."""
    return -(-tokens // -(-tokens // most))


def _cut(text: str, offsets: Sequence[tuple[int, int]], start: int, most: int) -> int:
    """The token before which the chunk ends that begins with token `start`."""
    left = len(offsets) - start
    if left <= most:
        return len(offsets)
    aim = start + _even(left, most)
    spread = max(1, most // 4)
    candidates = range(max(start + 1, aim - spread), min(start + most, aim + spread) + 1)
    # Of equally good places the nearest, so that chunks stay alike.
    return max(candidates, key=lambda at: (_place(text, offsets, at), -abs(at - aim), -at))


def _place(text: str, offsets: Sequence[tuple[int, int]], at: int) -> int:
    """What kind of place a cut before token `at` is, the better the higher."""
    end = offsets[at - 1][1]
    if offsets[at][0] < end:
        return _WITHIN_CHARACTER
    before, after = text[max(0, end - _NEAR) : end], text[end : end + _NEAR]
    kept = before.rstrip()
    left, right = before[len(kept) :], after[: len(after) - len(after.lstrip())]
    if not left + right:
        return _WITHIN_WORD
    # The end of a line stays with the line.
    if "\n" in right:
        return _WORD
    if left.count("\n") > 1:
        return _PARAGRAPH
    if _SENTENCE_END.search(kept):
        return _SENTENCE
    return _LINE if left.count("\n") else _WORD
