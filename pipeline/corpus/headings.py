"""The headings above a place in a Markdown text."""

import re

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
    code = [match.span() for match in _FENCE.finditer(text)]
    above: list[tuple[int, str]] = []
    for match in _HEADING.finditer(text, 0, _end_of_line(text, offset)):
        if match.start() > offset or any(a <= match.start() < b for a, b in code):
            continue
        level = len(match[1])
        above = [heading for heading in above if heading[0] < level]
        if match.start() < offset:
            above.append((level, match[2]))
    return above


def _end_of_line(text: str, offset: int) -> int:
    end = text.find("\n", offset)
    return len(text) if end < 0 else end
