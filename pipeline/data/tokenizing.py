"""From the rows of a split to its examples, by task's policies; what is odd about them is told."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.data.example import TokenizedExample
from pipeline.data.lengths import Lengths
from pipeline.data.rendering import Renderer
from pipeline.data.seen import Seen
from pipeline.data.templates import EmptyRowError
from pipeline.errors import PipelineError

Counts = dict[str, float]


class TokenizedSplit:
    """The examples of a split, made from its rows one after another.

    Once they are all made, `counts` says how many rows were dropped (and why) or truncated, and how
    many examples have an input that an earlier split holds too; `lengths` how long they are.
    """

    def __init__(
        self,
        renderer: Renderer,
        name: str,
        rows: Iterable[Mapping[str, Any]],
        earlier: Mapping[str, Seen] | None = None,
    ) -> None:
        self._renderer, self._name, self._rows = renderer, name, rows
        self._earlier = earlier or {}
        self.counts: Counts = {"dropped_empty": 0, "dropped_too_long": 0, "truncated": 0}
        self.lengths = Lengths()
        self.inputs = Seen()
        """For later splits to ask."""

    def __iter__(self) -> Iterator[TokenizedExample]:
        """Raises PipelineError for a row that `task` refuses, and when no example is left."""
        name, counts, rows = self._name, self.counts, 0
        repeated, first_repeated = 0, ""
        target, is_of_one_class = None, True
        for row in self._rows:
            rows += 1
            for example in self._examples(row):
                yield example
                self.lengths.add(example)
                self.inputs.add(example["input"])
                if (other := self._earlier_of(example["input"])) is not None:
                    repeated += 1
                    first_repeated = first_repeated or f"{example['id']} (in {other})"
                target = example["target"] if target is None else target
                is_of_one_class &= example["target"] == target
        if not len(self.lengths):
            raise PipelineError(_nothing_left(name, counts, self._renderer.task.max_length))
        for what, number in counts.items():
            if number:
                _warn(f"{name}: {number:.0f} of {rows} examples {what.replace('_', ' ')}")
        if name == "train" and is_of_one_class:
            _warn(f"{name}: every target is {target!r}; there is nothing to learn")
        if repeated:
            _warn(
                f"{name}: {repeated} examples have an input that an earlier split holds too, "
                f"for example {first_repeated}"
            )
        counts["inputs_of_earlier_splits"] = repeated

    def _earlier_of(self, text: str) -> str | None:
        """The first split that holds an input too: who trained on it is not tested by it."""
        return next((name for name, seen in self._earlier.items() if text in seen), None)

    def _examples(self, row: Mapping[str, Any]) -> Iterator[TokenizedExample]:
        """A row's examples, by the policies of `task`."""
        task = self._renderer.task
        try:
            examples = self._renderer.examples(row)
        except EmptyRowError as error:
            if task.empty == "refuse":
                raise PipelineError(
                    f"{error}, in {self._name}; mend the data, or set task.empty to drop"
                ) from error
            self.counts["dropped_empty"] += 1
            return
        for example in examples:
            length = len(example["input_ids"])
            if length > task.max_length:
                if task.too_long == "refuse":
                    raise PipelineError(
                        f"task.max_length: example {example['id']} of {self._name} has {length} "
                        f"tokens, more than {task.max_length}; raise it, or set task.too_long to "
                        "drop or truncate"
                    )
                if task.too_long == "drop":
                    self.counts["dropped_too_long"] += 1
                    continue
                example = self._renderer.truncated(row)
                self.counts["truncated"] += 1
            yield example


def _nothing_left(name: str, counts: Counts, max_length: int) -> str:
    if counts["dropped_too_long"]:
        return f"task.max_length: no example of {name} has at most {max_length} tokens; raise it"
    return f"task.empty: every example of {name} is empty; look at the templates and the data"


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
