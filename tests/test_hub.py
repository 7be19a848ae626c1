"""Models and data of the Hub: at one commit, and read as local files are."""

import gzip
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset_builder

from pipeline.config.data import HubData
from pipeline.config.model import HubModel
from pipeline.errors import PipelineError
from pipeline.sources.data import fetch_data
from pipeline.sources.model import fetch_model
from pipeline.storage.records import read_jsonl
from tests.test_data_files import exact

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> list[Any]:
    """A Hub whose branch `main` is at COMMIT; returns what it was asked for."""
    asked: list[Any] = []
    snapshot = tmp_path / "snapshots" / COMMIT
    shutil.copytree(model_folder, snapshot)

    def download(name: str, *, revision: str, **_: Any) -> str:
        asked.append((name, revision))
        return str(snapshot)

    def builder(name: str, config: str | None, *, revision: str = "", **settings: Any) -> Any:
        asked.append((name, revision))
        return load_dataset_builder(str(tmp_path / "set"), config, **settings)

    monkeypatch.setattr("pipeline.sources.snapshot.snapshot_download", download)
    monkeypatch.setattr("pipeline.sources.hub.load_dataset_builder", builder)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    return asked


def test_a_hub_model_is_recorded_at_its_commit(hub: list[Any], tmp_path: Path) -> None:
    params = HubModel(source="hub", path="requirements.lock", id="org/name", revision="main")
    fetch_model(params, tmp_path / "model")
    found = json.loads((tmp_path / "model" / "source.json").read_text())
    assert found == {"id": "org/name", "commit": COMMIT}
    assert hub == [("org/name", "main")]


def hub_set(tmp_path: Path, files: dict[str, bytes], **splits: str) -> list[dict[str, Any]]:
    """The rows of `train` of a data set of these files, without their ids."""
    for name, content in files.items():
        (tmp_path / "set" / name).write_bytes(content)
    chosen: Any = {"validation": "train", "test": "train", **splits}
    params = HubData(
        source="hub", path="requirements.lock", id="org/rows", revision="main", splits=chosen
    )
    fetch_data(params, tmp_path / "raw")
    rows = read_jsonl(tmp_path / "raw" / "train.jsonl")
    return [{name: value for name, value in row.items() if name != "id"} for row in rows]


def test_every_split_of_a_hub_data_set_is_of_one_commit(hub: list[Any], tmp_path: Path) -> None:
    lines = {f"{split}.jsonl": f'{{"q": "{split}"}}\n'.encode() for split in ("train", "test")}
    hub_set(tmp_path, lines, test="test")
    assert json.loads((tmp_path / "raw" / "source.json").read_text())["commit"] == COMMIT
    assert hub == [("org/rows", "main"), ("hf://datasets/org/rows", COMMIT)]
    assert read_jsonl(tmp_path / "raw" / "test.jsonl") == [{"id": "test-0", "q": "test"}]


ZIPS = b"zip,day,n\n01234,2024-02-29,1\nNA,,\n"
AS_TEXT = [{"zip": "01234", "day": "2024-02-29", "n": "1"}, {"zip": "NA", "day": "", "n": ""}]
IDS = b'{"n": 9223372036854775807, "day": "2024-02-29"}\n{"n": null, "day": "2024-03-01"}\n'
AS_IN_JSON = [{"n": 2**63 - 1, "day": "2024-02-29"}, {"n": None, "day": "2024-03-01"}]
TYPED = b"dataset_info:\n  features: [{name: zip, dtype: string}, {name: n, dtype: int64}]\n"
DIVIDED = b"configs: [{config_name: default, data_files: train.csv, sep: ';'}]\n"
COMMENTED = b"configs: [{config_name: default, data_files: train.csv, comment: '#'}]\n"


def card(settings: bytes) -> bytes:
    return b"---\n" + settings + b"---\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"train.csv": ZIPS}, AS_TEXT),
        ({"train.tsv": ZIPS.replace(b",", b"\t")}, AS_TEXT),
        ({"train.csv.gz": gzip.compress(ZIPS)}, AS_TEXT),
        ({"train.jsonl": IDS}, AS_IN_JSON),
        ({"train.json": b"[" + IDS.strip().replace(b"\n", b",") + b"]"}, AS_IN_JSON),
        ({"train-0.jsonl": IDS, "train-1.jsonl": IDS}, AS_IN_JSON * 2),
        (
            {"README.md": card(TYPED), "train.csv": b"zip,n\n01234,1\n"},
            [{"zip": "01234", "n": "1"}],
        ),
        (
            {"README.md": card(DIVIDED), "train.csv": b"zip;n\n01234;1\n"},
            [{"zip": "01234", "n": "1"}],
        ),
        # Other settings are for `datasets`, which then takes numbers for numbers.
        ({"README.md": card(COMMENTED), "train.csv": b"a,n\n# no\nb,1\n"}, [{"a": "b", "n": 1}]),
        ({"train.txt": b"a\nb\n"}, [{"text": "a"}, {"text": "b"}]),
    ],
)
def test_a_hub_data_set_is_read_as_local_files_are(
    hub: list[Any], tmp_path: Path, files: dict[str, bytes], expected: list[dict[str, Any]]
) -> None:
    assert exact(hub_set(tmp_path, files)) == exact(expected)


def test_a_key_that_a_split_lacks_is_null(hub: list[Any], tmp_path: Path) -> None:
    files = {"train.jsonl": b'{"q": 1}\n{"q": 2, "n": 3}\n', "test.jsonl": b'{"q": 4}\n'}
    assert hub_set(tmp_path, files, test="test") == [{"q": 1, "n": None}, {"q": 2, "n": 3}]
    assert read_jsonl(tmp_path / "raw" / "test.jsonl") == [{"id": "test-0", "q": 4, "n": None}]


def test_parquet_of_the_hub(hub: list[Any], tmp_path: Path) -> None:
    file = io.BytesIO()
    columns = {"n": pa.array([2**63 - 1, None]), "x": pa.array([0.1, None], pa.float32())}
    pq.write_table(pa.table(columns), file)
    expected: list[dict[str, Any]] = [{"n": 2**63 - 1, "x": 0.1}, {"n": None, "x": None}]
    assert exact(hub_set(tmp_path, {"train.parquet": file.getvalue()})) == exact(expected)
    # No table stays in the user's cache, where a later reading would find it.
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_a_part_of_a_split(hub: list[Any], tmp_path: Path, kind: str) -> None:
    line = '{{"text": "{}"}}\n' if kind == "jsonl" else "{}\n"
    content = "".join(line.format(i) for i in range(10)).encode()
    rows = hub_set(tmp_path, {f"train.{kind}": content}, train="train[:20%]+train[-1:]")
    assert rows == [{"text": "0"}, {"text": "1"}, {"text": "9"}]


@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_a_split_that_is_not_there(hub: list[Any], tmp_path: Path, kind: str) -> None:
    with pytest.raises(PipelineError, match=r"data\.splits\.test: cannot load 'dev'.*dev"):
        hub_set(tmp_path, {f"train.{kind}": b'{"q": 1}\n'}, test="dev")
    assert not (tmp_path / "raw").exists()


def test_without_a_network_what_is_there_is_read(
    hub: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(name: str, config: str | None, **settings: Any) -> Any:
        if name.startswith("hf://"):
            raise ConnectionError("Couldn't reach the Hub")
        return load_dataset_builder(name, config, **settings)

    monkeypatch.setattr("pipeline.sources.hub.load_dataset_builder", unreachable)
    snapshot = tmp_path / "snapshots" / COMMIT
    for path in snapshot.iterdir():
        path.unlink()
    (snapshot / "train.csv").write_bytes(ZIPS)
    assert exact(hub_set(tmp_path, {})) == exact(AS_TEXT)
