"""`init` divides one file so that nothing leaks, takes named files as they are, reads all kinds."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.project.conftest import Begun, init, questions, write_rows

Begin = Callable[..., Begun]
SPLITS = ("train", "validation", "test")


def test_one_file_is_divided_and_every_row_is_in_one_split(begin: Begin) -> None:
    table = [{"id": index, **row} for index, row in enumerate(questions(50))]
    begun = begin(table)
    found = [begun.rows(split) for split in SPLITS]
    assert [len(rows) for rows in found] == [35, 5, 10]
    assert sorted((row for rows in found for row in rows), key=lambda row: row["id"]) == table
    assert all(rows == sorted(rows, key=lambda row: row["id"]) for rows in found)
    assert "examples: 35 train, 5 validation, 10 test, drawn from mine.jsonl" in begun.said
    assert begun.params["data"]["files"]["train"] == "inputs/train.jsonl"


def test_the_division_is_the_same_each_time_and_no_beginning(begin: Begin) -> None:
    first = begin(questions())
    texts = {split: (first.root / "inputs" / f"{split}.jsonl").read_bytes() for split in SPLITS}
    params = first.text
    again = begin(questions(), "--force")
    assert {s: (again.root / "inputs" / f"{s}.jsonl").read_bytes() for s in SPLITS} == texts
    assert again.text == params
    assert first.rows("train") != questions()[: len(first.rows("train"))]


def test_rows_with_the_same_input_are_in_the_same_split(begin: Begin) -> None:
    table = [
        {
            "question": row["question"].replace(" ", "  ") if copy else row["question"],
            "answer": f"{i} {copy}",
        }
        for i, row in enumerate(questions(30))
        for copy in range(1 + i % 3)
    ]
    begun = begin(table)
    where: dict[str, set[str]] = {}
    for split in SPLITS:
        for row in begun.rows(split):
            where.setdefault(" ".join(row["question"].split()), set()).add(split)
    assert len(where) == 30
    assert all(len(splits) == 1 for splits in where.values())
    assert "warning" not in begun.said


def test_an_input_of_many_rows_leaves_the_small_splits_to_others(begin: Begin) -> None:
    table = [*questions(40), *({"question": "again?", "answer": f"{i}"} for i in range(60))]
    begun = begin(table)
    counts = {split: len(begun.rows(split)) for split in SPLITS}
    assert sum(counts.values()) == 100
    assert all(row["question"] != "again?" for row in begun.rows("test"))
    assert counts["test"] == 20


def test_rows_without_an_input_or_a_target_are_left_out(begin: Begin) -> None:
    table = [*questions(20), {"question": "who?", "answer": ""}, {"question": None, "answer": "x"}]
    begun = begin(table)
    assert sum(len(begun.rows(split)) for split in SPLITS) == 20
    assert "left out: 2 rows with an empty input or target" in begun.said


def csv_with(path: Path, delimiter: str) -> None:
    pd.DataFrame(questions()).to_csv(path, index=False, sep=delimiter)


KINDS: dict[str, Callable[[Path], Any]] = {
    "mine.csv": lambda path: csv_with(path, ","),
    "mine.tsv": lambda path: csv_with(path, "\t"),
    "mine.json": lambda path: path.write_text(json.dumps(questions(), indent=1)),
    "mine.jsonl": lambda path: write_rows(path, questions()),
    "mine.parquet": lambda path: pd.DataFrame(questions()).to_parquet(path),
    "Mine.CSV.gz": lambda path: path.write_bytes(
        gzip.compress(pd.DataFrame(questions()).to_csv(index=False).encode())
    ),
    "mine of 2024.01.csv": lambda path: csv_with(path, ","),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file(in_place: Path, name: str) -> None:
    KINDS[name](in_place / name)
    result = init("new", "--data", name)
    assert result.exit_code == 0, result.stderr
    begun = Begun(in_place / "new", result.stdout)
    found = [row for split in SPLITS for row in begun.rows(split)]
    assert Counter(map(str, found)) == Counter(map(str, questions()))


def named(folder: Path, *names: str) -> list[Path]:
    rows = questions(60)
    paths = []
    for index, name in enumerate(names):
        paths.append(write_rows(folder / name, rows[20 * index : 20 * (index + 1)]))
    return paths


def test_files_named_after_splits_are_taken_as_they_are(in_place: Path) -> None:
    paths = named(in_place, "faq.train.csv", "faq_dev.jsonl", "Test.csv")
    assert init("new", "--data", *paths).exit_code == 0
    begun = Begun(in_place / "new", "")
    files = begun.params["data"]["files"]
    assert files == {
        "train": "inputs/train.csv",
        "validation": "inputs/validation.jsonl",
        "test": "inputs/test.csv",
    }
    for path, name in zip(paths, files.values(), strict=True):
        assert (begun.root / name).read_bytes() == path.read_bytes()
    assert begun.params["evaluate"]["splits"] == ["test"]


def test_an_unseen_split_is_measured_too(in_place: Path) -> None:
    paths = named(in_place, "train.csv", "validation.csv", "test.csv")
    paths.append(write_rows(in_place / "test_unseen.csv", questions(5)))
    assert init("new", "--data", paths[0], *paths[1:]).exit_code == 0
    params = Begun(in_place / "new", "").params
    assert params["evaluate"]["splits"] == ["test", "test_unseen"]
    assert params["data"]["files"]["test_unseen"] == "inputs/test_unseen.csv"


def test_a_split_that_is_missing_is_drawn_from_training(in_place: Path) -> None:
    paths = named(in_place, "train.csv", "test.csv")
    result = init("new", "--data", *paths)
    begun = Begun(in_place / "new", result.stdout)
    assert (begun.root / "inputs" / "test.csv").read_bytes() == paths[1].read_bytes()
    drawn = [row for split in ("train", "validation") for row in begun.rows(split)]
    assert Counter(map(str, drawn)) == Counter(map(str, questions(20)))
    assert "18 train, 2 validation, 20 test, drawn from train.csv" in result.stdout


def test_inputs_that_two_given_splits_share_are_told(in_place: Path) -> None:
    paths = named(in_place, "train.csv", "validation.csv", "test.csv")
    write_rows(paths[2], questions(10))
    result = init("new", "--data", *paths)
    assert "warning: 10 examples have an input that another split has too" in result.stdout


def test_one_file_named_train_is_divided(in_place: Path) -> None:
    (path,) = named(in_place, "train.csv")
    assert "14 train, 2 validation, 4 test" in init("new", "--data", path).stdout
