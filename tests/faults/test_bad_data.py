"""What is wrong with data is refused, dropped or truncated by policy, counted, and told."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load_params
from pipeline.data.splits import load_split
from pipeline.errors import PipelineError
from pipeline.stages import fetch_data, tokenize, train
from pipeline.storage.records import read_json
from tests.faults.training_folder import (
    VARIANT,
    faulty_params,
    make_training_folder,
    outs,
    write_params,
)

LONG = {"key": "long", "record": "size: 1 km " * 20, "value": "1 km"}
GOOD = {"key": "good", "record": "size: 2 km", "value": "2 km"}
NULL = {"key": "null", "record": None, "value": "3 km"}
NO_TARGET = {"key": "none", "record": "size: 4 km", "value": ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_training_folder(folder)
    return folder


def tokenized(folder: Path, rows: list[dict[str, Any]], **task: Any) -> dict[str, Any]:
    """The statistics of the training split after `fetch_data` and `tokenize`."""
    text = "\n".join(json.dumps(row) for row in rows)
    (folder / "inputs" / "rows.jsonl").write_text(text + "\n")
    params = faulty_params(Path("inputs/model"))
    params["data"]["files"]["train"] = "inputs/rows.jsonl"
    params["task"] |= task
    write_params(folder, params)
    loaded = load_params()
    fetch_data.run(loaded)
    tokenize.run(loaded)
    return dict(read_json(Path("data/tokenized/statistics.json"))["train"])


@pytest.fixture(autouse=True)
def _inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_too_long(folder: Path) -> None:
    with pytest.raises(PipelineError, match=r"task\.max_length: example train-0 of train has 2"):
        tokenized(folder, [LONG, GOOD])
    assert tokenized(folder, [LONG, GOOD], too_long="drop")["dropped_too_long"] == 1
    found = tokenized(folder, [LONG, GOOD], too_long="truncate", max_length=60)
    assert (found["truncated"], found["examples"]) == (1, 2)
    first = load_split(Path("data/tokenized/splits"), "train")[0]
    assert len(first["input_ids"]) <= 60
    assert first["input"].endswith("km \nlong?")
    assert LONG["record"].startswith("size") and first["target"] == "1 km"  # noqa: PT018
    with pytest.raises(PipelineError, match=r"task\.max_length: example train-0 has more than 12"):
        tokenized(folder, [LONG, GOOD], too_long="truncate", max_length=12)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (NULL, r"task\.input_template: prints a column that is null in example train-0, in train"),
        (NO_TARGET, r"task\.target_template: the target of example train-0 is empty, in train"),
    ],
)
def test_empty(folder: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        tokenized(folder, [row, GOOD])
    assert tokenized(folder, [row, GOOD], empty="drop")["dropped_empty"] == 1
    with pytest.raises(PipelineError, match=r"task\.empty: every example of train is empty"):
        tokenized(folder, [row], empty="drop")


def test_an_input_without_tokens(folder: Path) -> None:
    with pytest.raises(PipelineError, match="the input of example train-0 is empty"):
        tokenized(folder, [GOOD], input_template="", use_chat_template=False)


def test_columns_of_any_name(folder: Path) -> None:
    """From the file to the tokens, whatever a column is called and a value is."""
    plain: dict[str, Any] = {"key": "plain", "record": "r", "value": "2 km"}
    row = {**plain, "key": "k", "row": ["a"], "self": {"if": 2**63 - 1}}
    rows = [{**row, "Review Text": 1999}, {**row, "Review Text": None}, plain]
    template = "{{ row['Review Text'] }} {{ row['self']['if'] }} {{ row['row'] | join }}"
    with pytest.raises(PipelineError, match="every example of validation is empty"):
        # No row of the other splits has these columns, and not every row of training.
        tokenized(folder, rows, input_template=template, empty="drop")
    template = f"{{% if key == 'k' %}}{template}{{% else %}}none{{% endif %}}"
    found = tokenized(folder, rows, input_template=template, empty="drop")
    assert (found["examples"], found["dropped_empty"]) == (2, 1)
    first = load_split(Path("data/tokenized/splits"), "train")[0]
    assert first["input"] == "1999 9223372036854775807 a"


def test_duplicates_across_splits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenized(folder, [{"key": "test 1", "record": "size: 1 km", "value": "1 km"}, GOOD])
    statistics = read_json(Path("data/tokenized/statistics.json"))
    assert statistics["test"]["inputs_of_earlier_splits"] == 1
    said = "test: 1 examples have an input that an earlier split holds too, for example test-1"
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_one_row_and_one_class(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tokenized(folder, [GOOD])["examples"] == 1
    assert "every target is '2 km'; there is nothing to learn" in capsys.readouterr().err
    train.run(load_params(), VARIANT)
    assert "prefix.safetensors" in outs(folder)


def test_bytes_that_are_no_text(folder: Path) -> None:
    (folder / "inputs" / "latin.csv").write_bytes("key,record,value\né,a,b\n".encode("latin-1"))
    params = faulty_params(Path("inputs/model"))
    params["data"]["files"]["train"] = "inputs/latin.csv"
    write_params(folder, params)
    with pytest.raises(PipelineError, match=r"data\.files\.train: .* is not UTF-8 text"):
        fetch_data.run(load_params())
