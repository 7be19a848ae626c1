"""Training examples one after another as one text, and where in it each begins."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from pipeline.data.conversation import Turns, answers_in, turns_of
from pipeline.data.templates import render

if TYPE_CHECKING:
    from pipeline.data.rendering import Renderer

Rows = Sequence[Mapping[str, Any]]

_BETWEEN = "\n\n"
_KEY = "initializations.<name>.template"
# Two inputs that share no first character.
_PROBES = ("0", "A")


def demonstrations_text(renderer: "Renderer", rows: Rows, template: str | None) -> str:
    """The rows one after another as one text.

    With a template each row is rendered by it, blank lines between; without one, as the task
    renders input and target, which under a chat template is one conversation of many turns.
    """
    if template is None and renderer.task.use_chat_template:
        return renderer.chat.render(renderer.conversation(_shown(renderer, rows)), False)
    return "".join(piece + _BETWEEN for piece in _pieces(renderer, rows, template))


def demonstration_starts(
    renderer: "Renderer", rows: Rows, template: str | None
) -> Iterator[int | None]:
    """Where in that text each row begins, one after the other; what is before the next is its own.

    In a conversation a row begins with its user's words: what the template puts before them is the
    end of the row before, and of the first one's of no row. None, and nothing after it, where the
    template writes the turns before a row otherwise than in the whole.
    """
    if template is not None or not renderer.task.use_chat_template:
        at = 0
        for piece in _pieces(renderer, rows, template):
            yield at
            at += len(piece) + len(_BETWEEN)
        return
    whole = demonstrations_text(renderer, rows, None)
    for count in range(len(rows)):
        before = _shown(renderer, rows[:count])
        first, second = (
            renderer.chat.render(
                renderer.conversation([*before, {"role": "user", "content": probe}]), False
            )
            for probe in _PROBES
        )
        pairs = zip(first, second, strict=False)
        at = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if not whole.startswith(first[:at]):
            yield None
            return
        yield at


def _pieces(renderer: "Renderer", rows: Rows, template: str | None) -> Iterator[str]:
    if template is not None:
        return (render(template, row, _KEY) for row in rows)
    return ("".join(renderer.texts(row)) for row in rows)


def _shown(renderer: "Renderer", rows: Rows) -> Turns:
    """The rows' turns one after another, each with its answer; systems' turns left out."""
    shown: Turns = []
    column = renderer.task.messages_column
    for row in rows:
        if column is None:
            asked, target = renderer.texts(row)
            shown.append({"role": "user", "content": asked})
        else:
            before, target = answers_in(turns_of(row, column), "last", row)[-1]
            shown += [turn for turn in before if turn["role"] != "system"]
        shown.append({"role": "assistant", "content": target})
    return shown
