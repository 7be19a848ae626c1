"""Rows into training, validation and test, so that no input stands in two of them."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.project.task import Task, key_of
from pipeline.sources.rows import Row

SEED = 0
_FRACTIONS = {"validation": 0.1, "test": 0.2}
_ORDER = ("train", "validation", "test", "test_unseen")
_FEWEST_ROWS = 10


@dataclass(frozen=True)
class Example:
    """A row with its input and target; rows of one `key` stay together."""

    row: Row
    input: str
    target: str
    key: str


def examples_of(task: Task, rows: Sequence[Row]) -> list[Example]:
    """The examples of rows that have an input and a target."""
    found = []
    for row in rows:
        texts = task.texts(row)
        if texts is not None:
            found.append(Example(row, *texts, key_of(task, row, texts[0])))
    return found


def splits_of(
    given: Mapping[str, list[Example]], task: Task, blank: int
) -> dict[str, list[Example]]:
    """Training, validation and test, and test_unseen where it was given; the rest is drawn.

    `given` are the examples of each file, by its split or, of one that is none, by any other name.
    Raises PipelineError where there are too few.
    """
    whole = given.get("train", next(iter(given.values())))
    missing = {name: part for name, part in _FRACTIONS.items() if name not in given}
    _refuse_too_few(whole, blank)
    for name, examples in given.items():
        if not examples:
            raise PipelineError(f"--data: no row of {name} has both an input and a target")
    if not missing:
        return {name: given[name] for name in _ORDER if name in given}
    drawn = split(whole, missing, SEED)
    if task.params.is_classification:
        drawn = with_all_labels_in_training(drawn, task.labels_in)
        _refuse_rare_labels(drawn, task)
    found = {**given, **drawn}
    return {name: found[name] for name in _ORDER if name in found}


def _refuse_rare_labels(drawn: Mapping[str, Sequence[Example]], task: Task) -> None:
    for name, examples in drawn.items():
        if not examples:
            raise PipelineError(
                f"--task: a {task.type} needs labels that several rows have, and none is left for "
                f"{name}; name the column of labels with --target, or leave --task out"
            )


def _refuse_too_few(examples: Sequence[Example], blank: int) -> None:
    if len(examples) >= _FEWEST_ROWS:
        return
    more = f" ({blank} more have an empty input or target)" if blank else ""
    raise PipelineError(
        f"--data: {len(examples)} rows to train, validate and test on are too few{more}; give at "
        f"least {_FEWEST_ROWS}, better 50 and more"
    )


def split(
    examples: Sequence[Example], fractions: Mapping[str, float], seed: int
) -> dict[str, list[Example]]:
    """`train` and a split for each fraction, each in the examples' own order.

    Drawn with the seed from the different inputs, so that examples with the same one are in the
    same split. Raises PipelineError when there are fewer inputs than splits.
    """
    groups: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault(example.key, []).append(index)
    if len(groups) <= len(fractions):
        raise PipelineError(
            f"--data: the rows have {len(groups)} different inputs, too few to be split; give a "
            "file for each of train, validation and test, or name the input with --input"
        )
    order = list(groups)
    random.Random(seed).shuffle(order)
    # What many rows share would fill a small split by itself: it is for training.
    order.sort(key=lambda key: len(groups[key]) > 1 + len(examples) // 50)
    found: dict[str, list[int]] = {}
    for name, fraction in fractions.items():
        wanted = max(1, round(fraction * len(examples)))
        taken: list[int] = []
        while order and len(taken) < wanted and len(order) > len(fractions) - len(found):
            taken += groups[order.pop(0)]
        found[name] = taken
    found["train"] = [index for key in order for index in groups[key]]
    return {
        name: [examples[index] for index in sorted(found[name])] for name in ("train", *fractions)
    }


def with_all_labels_in_training(
    splits: Mapping[str, list[Example]], labels_in: Callable[[str], set[str]]
) -> dict[str, list[Example]]:
    """The same with the examples of labels that training lacks moved there.

    A classifier knows the labels of training alone.
    """
    known = set().union(*(labels_in(example.target) for example in splits["train"]))
    moved = {"train": list(splits["train"])}
    for name, examples in splits.items():
        if name != "train":
            keys = {example.key for example in examples if not labels_in(example.target) <= known}
            moved["train"] += [example for example in examples if example.key in keys]
            moved[name] = [example for example in examples if example.key not in keys]
    return moved


def shared_inputs(splits: Mapping[str, Sequence[Example]]) -> int:
    """How many examples have an input that an earlier split holds too."""
    seen: set[str] = set()
    shared = 0
    for examples in splits.values():
        shared += sum(example.key in seen for example in examples)
        seen |= {example.key for example in examples}
    return shared
