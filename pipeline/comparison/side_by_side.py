"""Test examples with what each variant and baseline made of them, side by side."""

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import escape

from pipeline.comparison.differences import Piece, differences
from pipeline.comparison.summary import ByName
from pipeline.config import Params
from pipeline.data.spread import spread
from pipeline.errors import PipelineError
from pipeline.metrics.answers import exact_match
from pipeline.metrics.table import METRICS
from pipeline.storage.records import each_of_jsonl
from pipeline.workspace import paths

COUNT = 100
"""The most examples that are chosen."""

ROOM = 600_000
"""Bytes of all chosen examples on a page, so that it stays small for a large sweep."""

_LONGEST_INPUT, _LONGEST_OUTPUT = 6000, 2000
_MOST_OUTPUTS = 24
# What a row of the page, and a marked piece of text, take beside their text.
_ROW, _TAGS = 120, 13
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {127: 0x2421}


@dataclass(frozen=True)
class Output:
    """A generated text, and who generated it, best first; `matches` a reference or not.

    `pieces` is the text with its differences from the nearest reference.
    """

    text: str
    names: list[str]
    matches: bool
    pieces: list[Piece]


@dataclass(frozen=True)
class Example:
    """One example of `report.split`; outputs in the order of their best-placed author.

    `score` is the best prefix's on this example alone, as `shown`; `gain` how much better that is
    than the best baseline's, none without a baseline. `left_out` counts rarer outputs not listed.
    """

    place: int
    id: str
    input: str
    references: list[str]
    outputs: list[Output]
    distinct: int
    score: float
    shown: str
    gain: float | None
    left_out: int


def side_by_side(
    table: pd.DataFrame, statistics: ByName, params: Params, count: int = COUNT
) -> list[Example]:
    """At most `count` examples of `report.split`, in its order, within `ROOM` bytes.

    In turns one of those spread evenly, the first among them; of those whose outputs differ most;
    of those that the best prefix does worst, and best, by `report.sort_by`. `table` is the summary,
    best first. The same text from several of them is one output. Raises PipelineError when
    predictions are not of the same examples.
    """
    names = list(table["name"])
    ids, digests = zip(*(_digests(name, params) for name in names), strict=True)
    if len(set(ids)) > 1:
        raise PipelineError(
            f"predictions of {params.report.split} are not of the same examples; run `dvc repro`"
        )
    scores = _scores(table, statistics, params)
    # Of each example how many texts differ: those unlike the one before them in order, and one.
    ordered = np.sort(np.stack(digests), axis=0)
    distinct = (1 + (ordered[1:] != ordered[:-1]).sum(axis=0)).tolist()
    places = _in_turns(distinct, scores.best, count, params.report.ascending)
    rows = {name: _predictions(name, places, params) for name in names}
    chosen: list[Example] = []
    room = ROOM
    for index in places:
        example = _example(index, names, rows, scores, params)
        room -= _size(example)
        if chosen and room < 0:
            break
        chosen.append(example)
    return sorted(chosen, key=lambda example: example.place)


@dataclass(frozen=True)
class _Scores:
    """Of each example the score of the best prefix and of the best baseline, `[examples]`."""

    best: np.ndarray
    baseline: np.ndarray | None


def _scores(table: pd.DataFrame, statistics: ByName, params: Params) -> _Scores:
    key = (params.report.split, params.report.sort_by)

    def of(rows: pd.DataFrame) -> np.ndarray | None:
        if rows.empty:
            return None
        # What has no score of its own (0 of 0 labels) is neither worst nor best.
        with np.errstate(all="ignore"):
            found = METRICS[key[1]].score(statistics[str(rows["name"].iloc[0])][key])
        return np.asarray(found, dtype=np.float64)

    best = of(table[table["is_best"]])
    assert best is not None, "a sweep has a best variant"
    return _Scores(best, of(table[table["kind"] == "baseline"]))


def _in_turns(distinct: list[int], scores: np.ndarray, count: int, ascending: bool) -> list[int]:
    """Places of examples, those first that a page with room for few should have."""
    total = len(distinct)
    even = spread(total, count)
    differing = sorted(range(total), key=lambda place: (-distinct[place], place))
    worst_first = np.argsort(scores if not ascending else -scores, kind="stable")
    known = [int(place) for place in worst_first if scores[place] == scores[place]]
    turns = zip_longest(even, differing, known, reversed(known))
    places = [place for place in chain.from_iterable(turns) if place is not None]
    return list(dict.fromkeys(places))[:count]


def _example(
    index: int,
    names: Sequence[str],
    rows: dict[str, dict[int, dict[str, Any]]],
    scores: _Scores,
    params: Params,
) -> Example:
    row = rows[names[0]][index]
    references = [str(reference) for reference in row["references"]]
    authors: dict[str, list[str]] = {}
    for name in names:
        authors.setdefault(rows[name][index]["prediction"], []).append(name)
    listed = list(authors.items())[:_MOST_OUTPUTS]
    outputs = [_output(text, by, references) for text, by in listed]
    score = float(scores.best[index])
    gain = None
    if scores.baseline is not None:
        sign = -1 if params.report.ascending else 1
        gain = sign * (score - float(scores.baseline[index]))
    return Example(
        index,
        _shown(str(row["id"]), 200),
        _shown(row["input"], _LONGEST_INPUT),
        [_shown(reference, _LONGEST_OUTPUT) for reference in references[:5]],
        outputs,
        len(authors),
        score,
        METRICS[params.report.sort_by].shown(score),
        gain,
        len(authors) - len(listed),
    )


def _output(text: str, names: list[str], references: list[str]) -> Output:
    shown = _shown(text, _LONGEST_OUTPUT)
    matches = exact_match(text, references) == 1.0
    targets = [_shown(reference, _LONGEST_OUTPUT) for reference in references[:5]]
    pieces = [Piece(shown, "same")] if matches else differences(shown, targets)
    return Output(shown, names, matches, pieces)


def _shown(text: str, longest: int) -> str:
    """A text without signs that a page has no form for, cut in the middle where it is too long."""
    if len(text) > longest:
        half = longest // 2
        text = f"{text[:half]}\n[… {len(text) - longest:,} characters …]\n{text[-half:]}"
    return text.translate(_CONTROLS)


def _size(example: Example) -> int:
    """About as many bytes as the page has for it."""
    size = sum(map(_bytes, (example.input, *example.references)))
    for output in example.outputs:
        pieces = sum(_bytes(piece.text) + _TAGS for piece in output.pieces)
        size += pieces + _ROW + sum(len(name) + 2 for name in output.names)
    return size


def _bytes(text: str) -> int:
    return len(str(escape(text)).encode(errors="replace"))


def _digests(name: str, params: Params) -> tuple[bytes, np.ndarray]:
    """A hash over the ids of all examples, and one of each generated text, uint64 `[examples]`."""
    ids, texts = hashlib.sha256(), array("Q")
    for row in _lines(name, params):
        ids.update(json.dumps(row["id"]).encode())
        text = row["prediction"].encode(errors="surrogatepass")
        texts.append(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big"))
    return ids.digest(), np.array(texts, dtype=np.uint64)


def _predictions(name: str, places: Sequence[int], params: Params) -> dict[int, dict[str, Any]]:
    """The lines of the examples at these places."""
    wanted = set(places)
    return {at: row for at, row in enumerate(_lines(name, params)) if at in wanted}


def _lines(name: str, params: Params) -> Iterator[dict[str, Any]]:
    lines = each_of_jsonl(paths.EVALUATE / name / "predictions.jsonl")
    return (line for line in lines if line["split"] == params.report.split)
