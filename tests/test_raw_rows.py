"""What the raw splits hold besides the source's values: ids, samples; how files are read again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.config.data import FileData
from pipeline.errors import PipelineError
from pipeline.inference.inputs import inputs_of_file
from pipeline.initialization.from_text_file import read_text_file
from pipeline.sources.data import fetch_data
from pipeline.storage.records import read_csv, read_jsonl, read_text, write_csv, write_jsonl
from tests.test_data_files import BEYOND, ID, exact, fetched


def with_ids(folder: Path, ids: list[Any]) -> list[dict[str, Any]]:
    lines = [json.dumps({"q": 1, "id": own}) for own in ids]
    (folder / "a.jsonl").write_text("\n".join(lines))
    return fetched(folder, "a.jsonl")


@pytest.mark.parametrize("ids", [[7, 8], [ID, str(ID - 1)], ["a", "A"], ["", 0]])
def test_ids_that_tell_rows_apart_stay(tmp_path: Path, ids: list[Any]) -> None:
    assert exact(with_ids(tmp_path, ids)) == exact([{"id": str(own), "q": 1} for own in ids])


@pytest.mark.parametrize("ids", [[7, 7], [7, "7"], ["a", None], [[1], [2]], [1.0, 2.0]])
def test_other_ids_move(tmp_path: Path, capsys: pytest.CaptureFixture[str], ids: list[Any]) -> None:
    rows = with_ids(tmp_path, ids)
    assert exact(rows) == exact(
        [{"id": f"train-{i}", "q": 1, "source_id": own} for i, own in enumerate(ids)]
    )
    said = "warning: train: the column 'id' does not tell rows apart; it is 'source_id' now"
    assert said in capsys.readouterr().err


def test_ids_that_cannot_move(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,source_id\n1,2\n1,3\n")
    with pytest.raises(PipelineError, match="there is a column 'source_id' already; rename 'id'"):
        fetched(tmp_path, "a.csv")


def test_a_sample_is_of_the_same_rows_whatever_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_text("".join(f'{{"q": "{i}"}}\n' for i in range(50)))
    (tmp_path / "a.csv").write_text("q\n" + "".join(f"{i}\n" for i in range(50)))
    found: dict[str, list[str]] = {}
    for name in ("a.jsonl", "a.csv"):
        path = str(tmp_path / name)
        params = FileData(
            source="files",
            path=str(tmp_path),
            files={"train": path, "validation": path, "test": path},  # type: ignore[arg-type]
            max_examples={"train": 10, "validation": 5},  # type: ignore[arg-type]
            seed=3,
        )
        fetch_data(params, tmp_path / "raw")
        for split in ("train", "validation", "test"):
            found[f"{name} {split}"] = [
                row["q"] for row in read_jsonl(tmp_path / "raw" / f"{split}.jsonl")
            ]
    assert found["a.jsonl train"] == found["a.csv train"]
    assert len(found["a.csv train"]) == 10
    assert sorted(found["a.csv train"], key=int) == found["a.csv train"]
    assert set(found["a.csv validation"]) < set(found["a.csv train"])
    assert len(found["a.csv test"]) == 50


def test_lines_are_written_as_they_come_and_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows: list[dict[str, Any]] = [{"n": 2**63 - 1, "q": "é\u2028\x00"}, {"n": BEYOND, "q": None}]
    write_jsonl(path, iter(rows))
    assert exact(read_jsonl(path)) == exact(rows)

    def failing() -> Iterator[dict[str, Any]]:
        yield {"n": 1}
        assert len(list(tmp_path.iterdir())) == 2
        raise ValueError("no more rows")

    with pytest.raises(ValueError, match="no more rows"):
        write_jsonl(path, failing())
    with pytest.raises(PipelineError, match="half a character"):
        write_jsonl(path, iter([{"q": "\ud800"}]))
    assert exact(read_jsonl(path)) == exact(rows)
    assert list(tmp_path.iterdir()) == [path]


def test_names_in_a_table_are_no_nulls(tmp_path: Path) -> None:
    table = pd.DataFrame({"name": ["NA", "null", "nan"], "loss": [0.1, float("nan"), 2.0]})
    write_csv(tmp_path / "a.csv", table)
    again = read_csv(tmp_path / "a.csv")
    assert list(again["name"]) == ["NA", "null", "nan"]
    assert list(again["loss"].isna()) == [False, True, False]


def test_texts_lose_their_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffé\r\nb\r\n".encode())
    assert read_text(path) == read_text_file("corpus", str(path)) == "é\nb\n"
    assert inputs_of_file(path) == ["é", "b"]
    path = path.with_suffix(".jsonl")
    path.write_bytes('\ufeff{"q": 1}\r\n'.encode())
    assert inputs_of_file(path) == [{"q": 1}]


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="is a folder, where a text file is asked for"):
        read_text(tmp_path)
