"""From the rows of a split to its examples, by task's policies; what is odd about them is told."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.data.example import TokenizedExample
from pipeline.data.rendering import Renderer
from pipeline.data.templates import EmptyRowError
from pipeline.errors import PipelineError
from pipeline.progress.bar import following

Counts = dict[str, float]


def tokenized_split(
    renderer: Renderer, name: str, rows: Sequence[Mapping[str, Any]]
) -> tuple[list[TokenizedExample], Counts]:
    """The examples of a split, and how many rows were dropped (and why) or truncated.

    Raises PipelineError for a row that the policies of `task` refuse, and when none is left.
    """
    task = renderer.task
    kept: list[TokenizedExample] = []
    counts: Counts = {"dropped_empty": 0, "dropped_too_long": 0, "truncated": 0}
    for row in following(rows, f"tokenize {name}", "example"):
        try:
            examples = renderer.examples(row)
        except EmptyRowError as error:
            if task.empty == "refuse":
                raise PipelineError(
                    f"{error}, in {name}; mend the data, or set task.empty to drop"
                ) from error
            counts["dropped_empty"] += 1
            continue
        for example in examples:
            length = len(example["input_ids"])
            if length > task.max_length:
                if task.too_long == "refuse":
                    raise PipelineError(
                        f"task.max_length: example {example['id']} of {name} has {length} tokens, "
                        f"more than {task.max_length}; raise it, or set task.too_long to drop or "
                        "truncate"
                    )
                if task.too_long == "drop":
                    counts["dropped_too_long"] += 1
                    continue
                example = renderer.truncated(row)
                counts["truncated"] += 1
            kept.append(example)
    if not kept:
        raise PipelineError(_nothing_left(name, counts, task.max_length))
    for what, number in counts.items():
        if number:
            _warn(f"{name}: {number:.0f} of {len(rows)} examples {what.replace('_', ' ')}")
    _warn_of_one_class(name, kept)
    return kept, counts


def across_splits(splits: Mapping[str, Sequence[TokenizedExample]]) -> Counts:
    """For each split the number of its examples whose input an earlier split holds too.

    A model that has trained on an example of the test split is not tested by it.
    """
    seen: dict[str, str] = {}
    repeated: Counts = {}
    for name, examples in splits.items():
        again = [example for example in examples if example["input"] in seen]
        repeated[name] = len(again)
        if again:
            first = again[0]
            _warn(
                f"{name}: {len(again)} examples have an input that an earlier split holds too, "
                f"for example {first['id']} (in {seen[first['input']]})"
            )
        for example in examples:
            seen.setdefault(example["input"], name)
    return repeated


def _nothing_left(name: str, counts: Counts, max_length: int) -> str:
    if counts["dropped_too_long"]:
        return f"task.max_length: no example of {name} has at most {max_length} tokens; raise it"
    return f"task.empty: every example of {name} is empty; look at the templates and the data"


def _warn_of_one_class(name: str, examples: Iterable[TokenizedExample]) -> None:
    targets = {example["target"] for example in examples}
    if name == "train" and len(targets) == 1:
        _warn(f"{name}: every target is {next(iter(targets))!r}; there is nothing to learn")


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
