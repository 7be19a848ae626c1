"""A column of several turns: which of them are targets, and what stands before each."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.data.templates import EmptyRowError, no_column
from pipeline.errors import PipelineError

Turns = list[dict[str, Any]]

# Those whose content is what somebody says; a tool's may be data, which a template writes out.
_SPEAKERS = ("system", "developer", "user", "assistant")
# ShareGPT's names of them; a turn of it has `from` and `value` in place of `role` and `content`.
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}


def turns_of(row: Mapping[str, Any], column: str) -> Turns:
    """The turns in a row's column, a list of objects or the JSON of one: role and content of each.

    Turns of ShareGPT, with from and value, get these names, and human and gpt the roles user and
    assistant. A content that is a list of parts is the text of its parts. Raises PipelineError for
    a column that is missing or holds anything else, and for parts that are no text.
    """
    if column not in row:
        raise no_column("task.messages_column", column, row)
    value, example = row[column], row.get("id", "?")
    if value is None:
        raise EmptyRowError(f"task.messages_column: '{column}' of example {example} is null")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not are_turns(value):
        raise PipelineError(
            f"task.messages_column: '{column}' of example {example} is no list of turns, each with "
            "a role and a content, or a from and a value"
        )
    return [_turn(_with_role(turn), example) for turn in value]


def are_turns(value: Any) -> bool:
    """Whether a value is a list of turns, in either way to name their parts."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(
            isinstance(turn, Mapping) and (turn.get("role") or _is_of_sharegpt(turn))
            for turn in value
        )
    )


def _is_of_sharegpt(turn: Mapping[str, Any]) -> bool:
    return isinstance(turn.get("from"), str) and "value" in turn


def _with_role(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    if turn.get("role"):
        return turn
    rest = {key: item for key, item in turn.items() if key not in ("from", "value")}
    role = _ROLES.get(turn["from"], turn["from"])
    return {**rest, "role": role, "content": turn["value"]}


def _turn(turn: Mapping[str, Any], example: Any) -> dict[str, Any]:
    # Arrow gives every turn the keys of all; a template takes a null for something.
    kept = {key: item for key, item in turn.items() if item is not None}
    content = kept.get("content")
    if not isinstance(content, list):
        return kept
    texts = [
        part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        for part in content
    ]
    if all(isinstance(text, str) for text in texts):
        return {**kept, "content": "".join(map(str, texts))}
    if kept["role"] in _SPEAKERS:
        raise PipelineError(
            f"task.messages_column: the content of a turn ({kept['role']}) in example {example} is "
            'a list; a text is needed, or parts such as {"type": "text", "text": ...} alone'
        )
    return kept


def answers_in(turns: Turns, which: str, row: Mapping[str, Any]) -> list[tuple[Turns, str]]:
    """The turns before an assistant's, and its text: of the `last` one, or of `all` in order.

    Raises EmptyRowError where there is none, or one says nothing or follows nothing, and
    PipelineError for a content that is no text.
    """
    example = row.get("id", "?")
    places = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not places:
        raise EmptyRowError(f"task.messages_column: example {example} has no assistant's turn")
    found = []
    for index in places if which == "all" else places[-1:]:
        text = turns[index].get("content", "")
        if not isinstance(text, str):
            raise PipelineError(
                f"task.messages_column: an assistant's content in example {example} is a "
                f"{type(text).__name__}; a text is needed"
            )
        if all(turn["role"] == "system" for turn in turns[:index]):
            raise EmptyRowError(
                f"task.messages_column: example {example} has no turn before an assistant's"
            )
        found.append((turns[:index], text))
    return found


def as_text(turns: Turns) -> str:
    """Turns as a reader sees them: a line with the role before each content."""
    return "\n".join(f"{turn['role']}: {turn.get('content', '')}" for turn in turns)
