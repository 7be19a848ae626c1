"""Which virtual tokens of a prefix came from which demonstration, as its metadata have it.

The entry `DEMONSTRATIONS` is JSON: a list of `[first token, one past the last, name]`, in the order
in which the demonstrations stand. A token between two, of which both have a part, is in both.
"""

import json
from collections.abc import Iterable, Mapping

from pipeline.prefix.errors import PrefixError

DEMONSTRATIONS = "demonstrations"
"""The metadata entry that says which virtual tokens came from which demonstration."""

Spans = list[tuple[int, int, str]]
"""Of each demonstration its first token, one past its last, and its name."""


def note(spans: Iterable[tuple[int, int, str]]) -> dict[str, str]:
    """What a prefix's metadata say of its demonstrations."""
    return {DEMONSTRATIONS: json.dumps([list(span) for span in spans], ensure_ascii=False)}


def spans_in(metadata: Mapping[str, str]) -> Spans | None:
    """The demonstrations that metadata name; None where they speak of none.

    Raises PrefixError for an entry of another form.
    """
    if DEMONSTRATIONS not in metadata:
        return None
    try:
        found = json.loads(metadata[DEMONSTRATIONS])
        return [(int(start), int(stop), str(name)) for start, stop, name in found]
    except (TypeError, ValueError) as error:
        raise PrefixError(
            f"the prefix's metadata entry {DEMONSTRATIONS} is no list of demonstrations; compute "
            "the prefix anew"
        ) from error


def tokens_of(metadata: Mapping[str, str]) -> dict[str, frozenset[int]] | None:
    """Of each demonstration the virtual tokens that came from it; None as in `spans_in`."""
    spans = spans_in(metadata)
    if spans is None:
        return None
    found: dict[str, frozenset[int]] = {}
    for start, stop, name in spans:
        found[name] = found.get(name, frozenset()) | frozenset(range(start, stop))
    return found


def cut(metadata: dict[str, str], tokens: range) -> None:
    """Let metadata speak of the virtual tokens of a slice alone, counted from its first.

    Of a slice that leaves tokens out between others nothing is said any more.
    """
    spans = spans_in(metadata)
    if spans is None:
        return
    metadata.pop(DEMONSTRATIONS)
    if tokens.step != 1:
        return
    moved = (
        (max(start, tokens.start) - tokens.start, min(stop, tokens.stop) - tokens.start, name)
        for start, stop, name in spans
    )
    metadata.update(note(span for span in moved if span[0] < span[1]))
