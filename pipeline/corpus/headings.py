"""The headings above a place in a Markdown text."""

import re
from bisect import bisect_left
from functools import lru_cache
from typing import NamedTuple

_HEADING = re.compile(r"^(#{1,6})[ \t]+(\S.*?)[ \t#]*$", re.MULTILINE)
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def is_markdown(name: str) -> bool:
    """Whether a document of this name is Markdown: elsewhere `# ` can begin a comment."""
    return name.lower().endswith((".md", ".markdown"))


def is_heading(line: str) -> bool:
    """Whether a line is a heading, `## Geography`."""
    return _HEADING.fullmatch(line.strip()) is not None


def headings_above(text: str, offset: int) -> list[tuple[int, str]]:
    """The headings that hold at a character of a text: level and words, the highest first.

    One that begins at the character itself is not above it, and ends those of its own level and
    below. Lines within fenced code are none.
    """
    headings = _headings(text)
    before = bisect_left(headings, offset, key=lambda heading: heading.begin)
    above = headings[before - 1].holding if before else []
    if before < len(headings) and headings[before].begin == offset:
        return _higher(above, headings[before].level)
    return list(above)


class _Heading(NamedTuple):
    """Where a heading begins, its level, and what holds below it, itself the last."""

    begin: int
    level: int
    holding: list[tuple[int, str]]


# One text is asked about for each of its parts.
@lru_cache(maxsize=1)
def _headings(text: str) -> list[_Heading]:
    """The headings of a text, one after the other."""
    code = [match.span() for match in _FENCE.finditer(text)]
    found: list[_Heading] = []
    holding: list[tuple[int, str]] = []
    for match in _HEADING.finditer(text):
        begin, level = match.start(), len(match[1])
        if not any(a <= begin < b for a, b in code):
            holding = [*_higher(holding, level), (level, match[2])]
            found.append(_Heading(begin, level, holding))
    return found


def _higher(headings: list[tuple[int, str]], level: int) -> list[tuple[int, str]]:
    return [heading for heading in headings if heading[0] < level]
