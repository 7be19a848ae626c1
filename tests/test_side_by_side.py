"""Examples of the report: which are chosen, what of them is marked, and how large they may get."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from pipeline.comparison import side_by_side as examples
from pipeline.comparison.differences import LONGEST, Piece, differences
from pipeline.comparison.plots.embedding import as_json, columns_of
from pipeline.comparison.plots.loss_curves import curve_rows
from pipeline.comparison.side_by_side import Example, side_by_side
from pipeline.comparison.summary import statistics_of_all, summarize
from pipeline.comparison.timings import first_token
from pipeline.config import Params
from tests.written_sweep import params_of, write_sweep


def marked(text: str, *references: str) -> str:
    signs = {"same": "{}", "extra": "+{}+", "missing": "-{}-"}
    return "".join(signs[piece.kind].format(piece.text) for piece in differences(text, references))


@pytest.mark.parametrize(
    ("text", "references", "expected"),
    [
        ("34.4%", ["71.9%"], "+34.4%+"),
        ("about 34.4 %", ["about 71.9 %"], "about -71.9-+34.4+ %"),
        ("the old tower", ["the tower"], "the +old +tower"),
        ("the tower", ["the old tower"], "the -old -tower"),
        ("no such words", ["all others"], "+no such words+"),
        ("", ["anything"], ""),
        ("red house", ["a green tree", "red barn"], "red -barn-+house+"),
        ("高い塔", ["低い塔"], "-低-+高+い塔"),
        ("a text", [], "a text"),
        ("word " * (LONGEST + 1), ["word"], "word " * (LONGEST + 1)),
    ],
)
def test_words_that_differ_are_marked(text: str, references: list[str], expected: str) -> None:
    assert marked(text, *references) == expected
    kept = [piece.text for piece in differences(text, references) if piece.kind != "missing"]
    assert "".join(kept) == text


def chosen(folder: Path, params: Params, count: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return [example.place for example in read(folder, params, count, monkeypatch)]


def read(
    folder: Path, params: Params, count: int, monkeypatch: pytest.MonkeyPatch
) -> list[Example]:
    monkeypatch.chdir(folder)
    statistics = statistics_of_all(params)
    return side_by_side(summarize(params, statistics), statistics, params, count)


def edit(folder: Path, name: str, place: int, **values: object) -> None:
    """Change a line of a row's test predictions."""
    path = folder / "data" / "evaluate" / name / "predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = [line for line in lines if line["split"] == "test"]
    found[place].update(values)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_examples_are_those_that_tell_runs_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = params_of(report={"resamples": 100})
    write_sweep(tmp_path, params, examples=40)
    best = next(
        str(row["name"]) for row in summarize_in(tmp_path, params, monkeypatch) if row["is_best"]
    )
    edit(tmp_path, best, 23, loss=900.0)
    edit(tmp_path, best, 31, loss=0.0)
    for folder in (tmp_path / "data" / "evaluate").iterdir():
        for place in range(40):
            said = f"only {folder.name} says so" if place == 17 else "all say so"
            edit(tmp_path, folder.name, place, prediction=said)
    found = read(tmp_path, params, 4, monkeypatch)
    assert [example.place for example in found] == [0, 17, 23, 31]
    by_place = {example.place: example for example in found}
    assert by_place[17].distinct == 5
    assert by_place[23].score > 10
    assert by_place[31].shown == "0.000"
    gain = by_place[31].gain
    assert gain is not None
    assert gain > 0
    assert len(read(tmp_path, params, 100, monkeypatch)) == 40


def summarize_in(
    folder: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> list[dict[object, object]]:
    monkeypatch.chdir(folder)
    return list(summarize(params, statistics_of_all(params)).to_dict("records"))


def test_long_texts_leave_room_for_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = params_of(report={"resamples": 100})
    write_sweep(tmp_path, params, examples=40, text="&" * 3000)
    found = read(tmp_path, params, 100, monkeypatch)
    # Each "&" of a page is five signs: an input, a reference and at least one output.
    assert 1 < len(found) < examples.ROOM / (3 * 5 * 2000)
    output = found[0].outputs[0]
    assert "characters …]" in output.text
    assert len(output.text) < 2100
    monkeypatch.setattr(examples, "ROOM", 10)
    assert chosen(tmp_path, params, 100, monkeypatch) == [0]


def test_json_ends_no_script() -> None:
    value = {"a": "</script><!-- & \u2028"}
    text = as_json(value)
    assert isinstance(text, Markup)
    assert not set(text) & set("<>&\u2028")
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="JSON"):
        as_json(float("nan"))


def test_rows_become_columns() -> None:
    rows: list[dict[str, Any]] = [{"a": "x", "b": 1}, {"a": "y", "b": None}, {"a": "x"}]
    assert columns_of(rows) == {
        "columns": {"a": [0, 1, 0], "b": [1, None, None]},
        "texts": {"a": ["x", "y"]},
    }


def test_curves_are_thinned_evenly() -> None:
    import pandas as pd

    curves = pd.DataFrame(
        [
            {"initialization": "a", "length": length, "seed": 0, "step": step, "loss": 1 / step}
            for length in range(1, 11)
            for step in range(1, 2001)
        ]
    )
    rows = curve_rows(curves, points=1000)
    steps = [row["step"] for row in rows if row["series"] == "3"]
    assert len(rows) == 1000
    assert (steps[0], steps[-1], len(steps)) == (1, 2000, 100)
    gaps = {after - before for before, after in pairwise(steps)}
    assert gaps <= {20, 21}


def test_what_a_query_waits_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    table = pd.DataFrame(
        [
            {"name": "len8-a", "kind": "variant", "length": 8, "is_best": True},
            {"name": "len4-a", "kind": "variant", "length": 4, "is_best": False},
            {"name": "lora-seed0", "kind": "baseline", "length": 0, "is_best": False},
            {"name": "in_context", "kind": "baseline", "length": 2000, "is_best": False},
            {"name": "no_prefix", "kind": "baseline", "length": 0, "is_best": False},
        ]
    ).assign(trainable_parameters=[9, 9, 9, float("nan"), 0])
    times = {"len8-a": 41.5, "lora-seed0": 60, "in_context": 130, "no_prefix": 40, "len4-a": 1}
    timings = {name: {"first_token_ms": float(ms)} for name, ms in times.items()}
    (said,) = first_token(table, timings)
    assert said == (
        "A query has the first token of its answer after 41.5 ms with len8-a, after 40.0 ms "
        "without a prefix, and after 130.0 ms with the 2,000 tokens of in_context before it, "
        "which are in the cache already."
    )
    assert first_token(table, {**timings, "len8-a": {}}) == []
    alone = first_token(table.head(2), timings)
    assert alone == ["A query has the first token of its answer after 41.5 ms with len8-a."]


def test_pieces_say_what_they_are() -> None:
    assert differences("a b", ["a c"])[0] == Piece("a ", "same")
