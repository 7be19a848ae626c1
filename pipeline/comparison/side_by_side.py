"""Test examples with what each variant and baseline made of them, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.metrics.answers import exact_match
from pipeline.storage.records import read_jsonl
from pipeline.workspace import paths

COUNT = 10


@dataclass(frozen=True)
class Output:
    """A generated text, and who generated it, best first; `matches` a reference or not."""

    text: str
    names: list[str]
    matches: bool


@dataclass(frozen=True)
class Example:
    """One example of `report.split`; outputs in the order of their best-placed author."""

    id: str
    input: str
    references: list[str]
    outputs: list[Output]


def side_by_side(names: Sequence[str], params: Params, count: int = COUNT) -> list[Example]:
    """`count` examples spread evenly over `report.split`, the first among them.

    `names` are the rows of the summary, best first. The same text from several of them is one
    output. Raises PipelineError when predictions are not of the same examples.
    """
    rows = {name: _predictions(name, params) for name in names}
    first = rows[names[0]]
    if any([row["id"] for row in other] != [row["id"] for row in first] for other in rows.values()):
        raise PipelineError(
            f"predictions of {params.report.split} are not of the same examples; run `dvc repro`"
        )
    count = min(count, len(first))
    chosen = [index * len(first) // count for index in range(count)]
    return [_example(index, names, rows) for index in chosen]


def _example(index: int, names: Sequence[str], rows: dict[str, list[dict[str, Any]]]) -> Example:
    row = rows[names[0]][index]
    references = [str(reference) for reference in row["references"]]
    authors: dict[str, list[str]] = {}
    for name in names:
        authors.setdefault(rows[name][index]["prediction"], []).append(name)
    outputs = [
        Output(text, by, exact_match(text, references) == 1.0) for text, by in authors.items()
    ]
    return Example(str(row["id"]), row["input"], references, outputs)


def _predictions(name: str, params: Params) -> list[dict[str, Any]]:
    rows = read_jsonl(paths.EVALUATE / name / "predictions.jsonl")
    return [row for row in rows if row["split"] == params.report.split]
