"""Tokens of rows for tasks other than causal language modelling.

As for that one, `input_ids` holds the input and then, from `target_start` on, the target.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.data.rendering import Renderer


def input_and_target(
    renderer: "Renderer", shown: str, target: str, row: Mapping[str, Any]
) -> tuple[list[int], list[int], list[int] | None]:
    """Input tokens, target (tokens or label ids), and for `token_cls` each word's first token.

    Raises PipelineError for a label that training has not, and for words and labels that do not
    match.
    """
    task, tokenizer = renderer.task, renderer.tokenizer
    if task.type == "token_cls":
        words, tags = shown.split(), target.split()
        if len(words) != len(tags) or not words:
            raise PipelineError(
                f"task: example {row['id']} has {len(words)} words and {len(tags)} labels; for "
                "token_cls both templates render as many, set apart by white space"
            )
        encoded = tokenizer(words, is_split_into_words=True)
        owners = encoded.word_ids()
        if missing := set(range(len(words))) - set(owners):
            raise PipelineError(
                f"task.input_template: the tokenizer has no token for word "
                f"'{words[min(missing)]}' of example {row['id']}"
            )
        positions = [owners.index(word) for word in range(len(words))]
        return list(encoded["input_ids"]), [_label(renderer, tag, row) for tag in tags], positions
    source = renderer.prompt_ids(shown)
    if task.type == "seq_cls":
        return source, [_label(renderer, target, row)], None
    written = list(tokenizer(text_target=target)["input_ids"])
    if written[-1:] != [tokenizer.eos_token_id]:
        written.append(renderer.end_of_target())
    return source, written, None


def labels_of(renderer: "Renderer", rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Every label of the training rows, in alphabetical order; none for tasks that write text.

    Rows that are empty say nothing here: whether they may be is the matter of `task.empty`.
    """
    from pipeline.data.rendering import EmptyRowError

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
        found.update(target.split() if renderer.task.type == "token_cls" else [target])
    if len(found) < 2:
        raise PipelineError(
            f"task.target_template: renders {len(found)} label in all of training; a classifier "
            "needs at least 2"
        )
    return tuple(sorted(found))


def _label(renderer: "Renderer", label: str, row: Mapping[str, Any]) -> int:
    if label not in renderer.labels:
        raise PipelineError(
            f"task.target_template: example {row['id']} has the label '{label}', which no training "
            f"example has; known: {', '.join(renderer.labels[:10])}"
        )
    return renderer.labels.index(label)
