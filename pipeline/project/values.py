"""What the values of a column are, as far as a template has to know."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pipeline.data.conversation import are_turns
from pipeline.sources.rows import Row

TEXT, TEXTS, TURNS, ANSWERS, OTHER = "text", "texts", "turns", "answers", "other"
"""A text or number; a list of these; a chat's turns; SQuAD's answers; what no template prints."""

_LONGEST_NAME = 5  # words


@dataclass(frozen=True)
class Column:
    """A column's values in all rows: of one kind, `OTHER` where they are not.

    `length` is the mean number of characters of those that are not blank, `distinct` how many
    different ones there are, `longest` the characters of the longest, `blanks` how many are null,
    empty, or white space. `is_code`: each is another one, of one word with a digit, as of articles.
    `has_own_name`: one of them is the column's name, which then may be no name.
    """

    name: str
    kind: str
    length: float
    distinct: int
    longest: int
    blanks: int
    is_numeric: bool
    is_code: bool = False
    has_own_name: bool = False

    @property
    def may_be_nameless(self) -> bool:
        """Whether its name reads like one of its values, as where a file has no line of names."""
        is_long = len(self.name.split()) > _LONGEST_NAME and 2 * len(self.name) > self.length
        return self.has_own_name or is_long


def column_of(name: str, rows: Sequence[Row]) -> Column:
    """Look at a column in all rows."""
    values = [row.get(name) for row in rows]
    shown = [value for value in values if not is_blank(value)]
    texts = [v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in shown]
    kinds = {_kind(value) for value in shown}
    is_numeric = bool(texts) and all(_is_number(value) for value in shown)
    return Column(
        name=name,
        kind=kinds.pop() if len(kinds) == 1 else OTHER,
        length=fmean(map(len, texts)) if texts else 0.0,
        distinct=len(set(texts)),
        longest=max(map(len, texts), default=0),
        blanks=len(values) - len(shown),
        is_numeric=is_numeric,
        is_code=not is_numeric and 1 < len(texts) == len(set(texts)) and all(map(_is_code, texts)),
        has_own_name=name.strip() in texts,
    )


def is_blank(value: Any) -> bool:
    """Whether a template would print nothing of it."""
    return value is None or value in ([], {}) or (isinstance(value, str) and not value.strip())


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return TURNS if _are_turns(_parsed(value)) else TEXT
    if isinstance(value, int | float):
        return TEXT
    if isinstance(value, Mapping):
        texts = value.get("text")
        return ANSWERS if isinstance(texts, list) else OTHER
    if isinstance(value, list):
        if _are_turns(value):
            return TURNS
        return TEXTS if all(isinstance(item, str | int | float) for item in value) else OTHER
    return OTHER


def _parsed(text: str) -> Any:
    # A CSV file has to hold turns so.
    if not text.lstrip().startswith("[{"):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def _are_turns(value: Any) -> bool:
    return (
        are_turns(value)
        and bool(value)
        and all("content" in turn or "value" in turn for turn in value)
    )


def _is_code(text: str) -> bool:
    return len(text.split()) == 1 and any(map(str.isdigit, text))


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
