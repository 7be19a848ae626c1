"""The labels that a classifier's training rows have."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.data.rendering import Renderer
from pipeline.data.templates import EmptyRowError
from pipeline.data.words import words_of
from pipeline.errors import PipelineError


def labels_of(renderer: Renderer, rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Every label of the training rows, in alphabetical order; none for tasks that write text.

    Rows that are empty say nothing here: whether they may be is the matter of `task.empty`.
    """
    if not renderer.task.is_classification:
        return ()
    found: set[str] = set()
    for row in rows:
        try:
            _, target = renderer.texts(row)
        except EmptyRowError:
            continue
        if not target.strip():
            continue
        is_of_words = renderer.task.type == "token_cls"
        found.update(words_of(target, renderer.task) if is_of_words else [target])
    found.discard("")
    if len(found) < 2:
        raise PipelineError(
            f"task.target_template: renders {len(found)} label in all of training; a classifier "
            "needs at least 2"
        )
    return tuple(sorted(found))
