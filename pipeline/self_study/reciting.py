"""Questions whose answer stands in the text: how a passage goes on after its beginning.

A model that is too weak to ask about a text can still learn its words. This is the training on the
corpus itself to which Eyuboglu et al. 2025 (Cartridges, arXiv 2506.06266, section 4) compare
self-study, put as questions and answers, so that a prefix learns both in one format.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from pipeline.corpus.headings import headings_above, is_heading, is_markdown

_PARAGRAPH = re.compile(r"\n[ \t]*\n")
_SENTENCE = re.compile(r"(?<=[.!?\u2026\u3002\uff01\uff1f])\s+")
_LEAST_WORDS = 3
_MOST_WORDS = 32  # of a beginning, and of what follows it


@dataclass(frozen=True)
class Recital:
    """A question how a passage goes on, and its words."""

    question: str
    answer: str


def recitals(context: str, document: str, count: int, seed: int) -> list[Recital]:
    """At most `count` different ones of a chunk, drawn by the seed: of every passage one first.

    A passage is a sentence or a paragraph's line. It breaks between two words of its first half.
    The question names the headings above it, in Markdown, or the document where there are none.
    """
    random = Random(seed)
    passages = list(_passages(context, is_markdown(document)))
    found: dict[Recital, None] = {}
    # A passage of few words has few places to break: as many rounds as the longest has at most.
    for _ in range(_MOST_WORDS):
        random.shuffle(passages)
        for where, words in passages:
            if len(found) == count:
                return list(found)
            cut = random.randint(1, max(1, min(len(words) // 2, _MOST_WORDS)))
            found[_recital(where or document, words, cut)] = None
    return list(found)


def _recital(where: str, words: list[str], cut: int) -> Recital:
    answer = " ".join(words[cut : cut + _MOST_WORDS])
    question = f'{where}: how does the text go on after "{" ".join(words[:cut])}"?'
    return Recital(question, answer)


def _passages(text: str, has_headings: bool) -> Iterator[tuple[str, list[str]]]:
    """The words of each passage that are enough to be asked for, and the headings above it."""
    begin = 0
    for paragraph in _PARAGRAPH.split(text):
        offset = text.index(paragraph, begin)
        begin = offset + len(paragraph)
        above = headings_above(text, offset) if has_headings else []
        where = ", ".join(words for _, words in above)
        for line in paragraph.split("\n"):
            if has_headings and is_heading(line):
                continue
            for sentence in _SENTENCE.split(line):
                words = sentence.split()
                if len(words) >= _LEAST_WORDS:
                    yield where, words
