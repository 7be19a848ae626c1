"""The text that a teacher reads before each example: one for all, or each row's own chunk."""

from collections.abc import Callable
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.storage.records import each_of_jsonl, read_text

TextOf = Callable[[str], str]
"""Of an example's id the text that the teacher reads before it."""


def texts_of(name: str, path: Path, split: str) -> TextOf:
    """The text of a file for every example, or of a folder of self-study each row's `context`.

    Raises PipelineError for a file without text, a folder without the split, a row without a
    context; and for an example that the folder has no row of, when it is asked for.
    """
    if not path.is_dir():
        text = read_text(path)
        if not text.strip():
            raise PipelineError(f"teachers.{name}.path: the text in '{path}' is empty")
        return lambda _: text
    rows = path / f"{split}.jsonl"
    if not rows.exists():
        raise PipelineError(
            f"teachers.{name}.splits: '{path}' holds no {rows.name}; leave {split} out, or name a "
            f"text file as teachers.{name}.path"
        )
    return _each_own(name, rows)


def _each_own(name: str, path: Path) -> TextOf:
    # Many rows are about one chunk, whose text is held once.
    contexts: dict[str, str] = {}
    of_row: dict[str, str] = {}
    for row in each_of_jsonl(path):
        context = row.get("context")
        if not isinstance(context, str) or not context.strip():
            raise PipelineError(
                f"teachers.{name}.path: row {row.get('id', '?')} of '{path}' has no context; name "
                "a text file, or a folder that self_study writes"
            )
        of_row[str(row.get("id"))] = contexts.setdefault(context, context)

    def text_of(example: str) -> str:
        # One of several answers of a conversation is called by its row and a number.
        for known in (example, example.rpartition("#")[0]):
            if known in of_row:
                return of_row[known]
        raise PipelineError(
            f"teachers.{name}.path: '{path}' has no row {example}; data.path and this path are of "
            "the same self-study"
        )

    return text_of
