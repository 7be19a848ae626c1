"""References in every form that data sets keep: the right ones, or a sentence at `tokenize`."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load_params
from pipeline.data.references import references_of
from pipeline.data.splits import load_split
from pipeline.errors import PipelineError
from pipeline.evaluation.metrics import kept_of, scores
from pipeline.metrics.metric import OfText
from pipeline.metrics.table import names_of
from pipeline.stages import fetch_data, tokenize
from tests.faults.training_folder import faulty_params, make_training_folder, write_params

TARGET = "the target"

RIGHT: dict[str, tuple[Any, list[str]]] = {
    "a text": ("Lima", ["Lima"]),
    "a list": (["Lima", "the city of Lima"], ["Lima", "the city of Lima"]),
    "one item": (["Lima"], ["Lima"]),
    "SQuAD": ({"text": ["Lima", "Lima"], "answer_start": [3, 3]}, ["Lima", "Lima"]),
    "SQuAD, unanswerable": ({"text": [], "answer_start": []}, [TARGET]),
    "SQuAD, of one text": ({"text": "Lima", "answer_start": 3}, ["Lima"]),
    "SQuAD as published": ([{"text": "Lima", "answer_start": 3}, {"text": "L"}], ["Lima", "L"]),
    "an empty list": ([], [TARGET]),
    "null": (None, [TARGET]),
    "an empty text, as CSV has for null": ("", [TARGET]),
    "blank": ("  ", [TARGET]),
    "a list of null": ([None], [TARGET]),
    "a list with null": (["Lima", None], ["Lima"]),
    "a list of the empty text": ([""], [TARGET]),
    "an object of null": ({"text": None}, [TARGET]),
    "a whole number": (1999, ["1999"]),
    "zero": (0, ["0"]),
    "a long id": (1234567890123456789, ["1234567890123456789"]),
    "a fraction": (2.5, ["2.5"]),
    "numbers": ([1999, 2.5], ["1999", "2.5"]),
    "truth values": ([True, False], ["True", "False"]),
    "a list in a CSV cell": ('["Lima", "the \\"city\\" of Lima"]', ["Lima", 'the "city" of Lima']),
    "an empty list in a CSV cell": ("[]", [TARGET]),
    "a null in a CSV cell's list": ("[null]", [TARGET]),
    "numbers in a CSV cell": ("[1999, 2000]", ["1999", "2000"]),
    "SQuAD in a CSV cell": ('{"text": ["Lima"], "answer_start": [3]}', ["Lima"]),
    "a JSON text in a CSV cell": ('"Lima"', ['"Lima"']),
    "a number in a CSV cell": ("1999", ["1999"]),
    "a text in brackets": ("[laughs]", ["[laughs]"]),
    "a text with braces": ("{x} of y", ["{x} of y"]),
    "a text that begins with a quote": ("'tis", ["'tis"]),
    "text of other scripts": (["Λίμα", "🌍"], ["Λίμα", "🌍"]),
}  # fmt: skip

WRONG: dict[str, tuple[Any, str]] = {
    "lists within lists": ([["Lima"], ["L"]], "has lists within lists in example 7; make them one"),
    "lists within lists in a CSV cell": ('[["Lima"]]', "has lists within lists"),
    "lists within SQuAD": ({"text": [["Lima"]]}, "has lists within lists"),
    "an object": ({"value": "Lima", "aliases": ["L"]}, "lists the references, as answers.<field>"),
    "an empty object": ({}, "without a field 'text' in example 7 (its fields: none)"),
    "objects": ([{"span": "Lima"}], "without a field 'text' in example 7 (its fields: span)"),
    "a list as Python prints it": ("['Lima', 'L']", "'Lima', 'L']\"; write it as JSON"),
    "a list as NumPy prints it": ("['Lima' 'L']", "that is no JSON"),
    "an object as Python prints it": ("{'text': ['Lima']}", "that is no JSON"),
    "a list that is cut off": ('["Lima", "the ci', "that is no JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_the_references_of_a_row(name: str) -> None:
    value, expected = RIGHT[name]
    found = references_of("answers", {"id": "7", "answers": value}, TARGET)
    assert found == expected
    for prediction in ("", "Lima"):
        line = {"loss": 1.0, "target_tokens": 1, **kept_of(prediction, found, names_of(OfText))}
        assert all(score >= 0 for score in scores([line], names_of(OfText)).values())


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_list_of_texts_is_told(name: str) -> None:
    value, expected = WRONG[name]
    with pytest.raises(PipelineError) as caught:
        references_of("answers", {"id": "7", "answers": value}, TARGET)
    assert str(caught.value).startswith("task.references_column: ")
    assert expected in str(caught.value)


@pytest.mark.parametrize("text", ['["a", "b"]', "[1, 2]", "{'a': 1}", '{"text": ["x"]}'])
def test_a_target_that_looks_like_a_list_is_a_text(text: str) -> None:
    """A task that writes JSON or code has such texts as its references."""
    assert references_of("code", {"code": text}, f" {text}\n") == [text]


def test_a_field_of_a_column() -> None:
    row = {
        "id": "7",
        "answer": {"value": "Lima", "aliases": ["Lima", "L"]},
        "none": None,
        "a.b": "x",
    }
    assert references_of("answer.aliases", row, TARGET) == ["Lima", "L"]
    assert references_of("answer.value", row, TARGET) == ["Lima"]
    assert references_of("none.aliases", row, TARGET) == [TARGET]
    assert references_of("a.b", row, TARGET) == ["x"]
    with pytest.raises(PipelineError, match="'answer' has no field 'other'; its fields are: value"):
        references_of("answer.other", row, TARGET)
    with pytest.raises(PipelineError, match="'town' is no column; the data's columns are: id, an"):
        references_of("town", row, TARGET)


DEEP = {
    "id": "7",
    "text": '{"value": "Lima", "aliases": ["Lima", "L"]}',
    "empty": "",
    "spans": [{"span": "Lima"}, {"span": None}, None, {"span": "L"}],
    "a": {"b": {"c": ["Lima", "L"]}, "b.d": ["L"]},
    "a.b": {"e f": ["Lima"]},
    "word": "Lima",
}


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("text.aliases", ["Lima", "L"]),
        ("empty.aliases", [TARGET]),
        ("spans.span", ["Lima", "L"]),
        ("a.b.c", "'a.b' has no field 'c'; its fields are: e f"),
        ("a.b.e f", ["Lima"]),
        ("word.aliases", "'word' is no object in example 7, so there is no 'aliases' in it"),
        ("spans.text", "'spans' has no field 'text'; its fields are: span"),
        (".a", "'.a' is no column"),
    ],
)
def test_a_field_of_what_a_column_holds(column: str, expected: Any) -> None:
    """Of each object of a list, of an object in a CSV cell, below other fields, with dots."""
    if isinstance(expected, list):
        assert references_of(column, DEEP, TARGET) == expected
        return
    with pytest.raises(PipelineError, match=expected):
        references_of(column, DEEP, TARGET)


def test_fields_within_fields() -> None:
    row = {"id": "7", "a": DEEP["a"]}
    assert references_of("a.b.c", row, TARGET) == ["Lima", "L"]
    assert references_of("a.b.d", row, TARGET) == ["L"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("references")
    make_training_folder(folder)
    return folder


SQUAD = [
    {"q": "Which city?", "answers": {"text": ["Lima", "the city"], "answer_start": [1, 2]}},
    {"q": "Which river?", "answers": {"text": [], "answer_start": []}},
    {"q": "Which lake?", "answers": {"text": ["Titicaca"], "answer_start": [4]}},
]
ANSWER = "{{ answers.text[0] if answers.text else 'unanswerable' }}"


def of_train(folder: Path, file: str, **task: Any) -> list[tuple[str, list[str]]]:
    """The targets and references that `tokenize` makes of a training file."""
    params = faulty_params(Path("inputs/model"))
    params["data"]["files"] = dict.fromkeys(("train", "validation", "test"), f"inputs/{file}")
    params["task"] |= {"input_template": "{{ q }}", "references_column": "answers"} | task
    write_params(folder, params)
    loaded = load_params()
    fetch_data.run(loaded)
    tokenize.run(loaded)
    split = load_split(Path("data/tokenized/splits"), "train")
    return list(zip(split["target"], split["references"], strict=True))


def test_unanswerable_questions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    lines = [json.dumps(row) for row in SQUAD]
    (folder / "inputs" / "squad.jsonl").write_text("\n".join(lines) + "\n")
    answered = [("Lima", ["Lima", "the city"]), ("Titicaca", ["Titicaca"])]
    unanswerable = ("unanswerable", ["unanswerable"])
    found = of_train(folder, "squad.jsonl", target_template=ANSWER)
    assert found == [answered[0], unanswerable, answered[1]]
    # A template that names no other answer leaves such a row without a target.
    for first in ("{{ answers.text[0] }}", "{{ answers.text | first }}"):
        said = r"takes an item of a list that is empty in example train-1 .* task\.empty to drop"
        with pytest.raises(PipelineError, match=said):
            of_train(folder, "squad.jsonl", target_template=first)
        assert of_train(folder, "squad.jsonl", target_template=first, empty="drop") == answered


def test_lists_in_a_csv_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with (folder / "inputs" / "squad.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["q", "answer", "answers"])
        for row in SQUAD:
            texts = row["answers"]["text"]  # type: ignore[index]
            writer.writerow([row["q"], texts[0] if texts else "none", json.dumps(texts)])
    found = of_train(folder, "squad.csv", target_template="{{ answer }}")
    assert [references for _, references in found] == [["Lima", "the city"], ["none"], ["Titicaca"]]


def test_an_object_that_needs_its_field(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    rows = [{"q": "Which city?", "answers": {"spans": ["Lima"]}}] * 2
    (folder / "inputs" / "spans.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    said = r"'answers' is an object without a field 'text' in example train-0 \(its fields: spans\)"
    with pytest.raises(PipelineError, match=said):
        of_train(folder, "spans.jsonl", target_template="x")
    found = of_train(folder, "spans.jsonl", target_template="x", references_column="answers.spans")
    assert found == [("x", ["Lima"])] * 2
