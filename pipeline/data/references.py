"""The accepted targets of a row, from a column in whatever form data sets keep them."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pipeline.data.templates import no_column
from pipeline.errors import PipelineError

_KEY = "task.references_column"
# What begins so is meant as a list or an object, not as a text.
_MEANT_AS_JSON = re.compile(r"\s*[\[{]\s*['\"]")


def references_of(column: str, row: Mapping[str, Any], target: str) -> list[str]:
    """The references of a row, at least one; `target` alone where the column lists none.

    The column holds a text or a number, a list of them, SQuAD's `{"text": [...], ...}` or a list
    of `{"text": ..., ...}`, or any of these as JSON in a text, as a CSV file has to. A text that is
    the target itself is never read as JSON. Null and blank texts are no references: a question
    without an answer has as its only reference what `task.target_template` writes for it.

    Raises PipelineError for a column that is not there, and for other objects and lists.
    """
    value = referenced(column, row)
    if isinstance(value, str) and value.strip() != target.strip():
        value = _parsed(value, row)
    if isinstance(value, Mapping):
        value = _text_of(value, column, row)
    listed = value if isinstance(value, list) else [value]
    items = [_text_of(i, column, row) if isinstance(i, Mapping) else i for i in listed]
    if any(isinstance(item, list | Mapping) for item in items):
        raise PipelineError(
            f"{_KEY}: '{column}' has lists within lists in example {row.get('id', '?')}; make them "
            "one list of texts"
        )
    texts = [str(item) for item in items if item is not None]
    return [text for text in texts if text.strip()] or [target]


def referenced(column: str, row: Mapping[str, Any]) -> Any:
    """The value of a column, or below it of a field: `answer.aliases`.

    A field of a list of objects is the list of their fields; objects may be JSON in a text. Raises
    PipelineError naming what there is in its place.
    """
    outer, field = _divided(column, row)
    if outer is None:
        raise no_column(_KEY, column, row)
    return _field_of(row[outer], field, outer, row)


def _divided(path: str, known: Mapping[str, Any]) -> tuple[str | None, str]:
    """The longest beginning of a dotted path that is known, which may hold dots, and the rest."""
    end = len(path)
    while end > 0:
        if path[:end] in known:
            return path[:end], path[end + 1 :]
        end = path.rfind(".", 0, end)
    return None, path


def _field_of(value: Any, path: str, outer: str, row: Mapping[str, Any]) -> Any:
    if isinstance(value, str) and path:
        value = _parsed(value, row)
    if not path or value is None or value == "":
        return value
    if isinstance(value, list):
        return [_field_of(item, path, outer, row) for item in value]
    if not isinstance(value, Mapping):
        raise PipelineError(
            f"{_KEY}: '{outer}' is no object in example {row.get('id', '?')}, so there is no "
            f"'{path}' in it; name a column, or a field of one that holds objects"
        )
    field, rest = _divided(path, value)
    if field is None:
        fields = ", ".join(map(str, value)) or "none"
        raise PipelineError(f"{_KEY}: '{outer}' has no field '{path}'; its fields are: {fields}")
    return _field_of(value[field], rest, f"{outer}.{field}", row)


def _parsed(text: str, row: Mapping[str, Any]) -> Any:
    """A list or an object that is written as JSON, and every other text as it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if _MEANT_AS_JSON.match(text) is None:
            return text
        raise PipelineError(
            f"{_KEY}: example {row.get('id', '?')} has a list or an object that is no JSON: "
            f"{text[:40]!r}; write it as JSON, as json.dumps does"
        ) from error
    return value if isinstance(value, list | dict) else text


def _text_of(value: Mapping[str, Any], column: str, row: Mapping[str, Any]) -> Any:
    if "text" in value:
        return value["text"]
    fields = ", ".join(map(str, value)) or "none"
    raise PipelineError(
        f"{_KEY}: '{column}' is an object without a field 'text' in example {row.get('id', '?')} "
        f"(its fields: {fields}); name the field that lists the references, as {column}.<field>"
    )
