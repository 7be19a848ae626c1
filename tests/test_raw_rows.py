"""What the raw splits hold besides the source's values: ids, and samples of the rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.data import FileData
from pipeline.errors import PipelineError
from pipeline.sources.data import fetch_data
from pipeline.storage.records import read_jsonl
from tests.test_data_files import ID, exact, fetched


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
