"""`init` run in place, without copied code and a repository where a test asks of neither."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.cli.main import main
from pipeline.config.load import read_yaml
from pipeline.project import creation
from pipeline.storage.records import read_jsonl

Row = dict[str, Any]


@dataclass(frozen=True)
class Begun:
    """A project, and what `init` said of it."""

    root: Path
    said: str

    @property
    def params(self) -> Row:
        return read_yaml(self.root / "params.yaml")

    @property
    def text(self) -> str:
        return (self.root / "params.yaml").read_text(encoding="utf-8")

    def rows(self, split: str) -> list[Row]:
        return read_jsonl(self.root / "inputs" / f"{split}.jsonl")


def init(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["init", *map(str, arguments)])


@pytest.fixture
def in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands run in; neither code is copied, nor git or DVC started."""

    def without_code(folder: Path) -> None:
        (folder / "requirements.lock").touch()
        (folder / "pipeline" / "project").mkdir(parents=True)
        (folder / "pipeline" / "project" / "params.yaml").touch()

    monkeypatch.setattr(creation, "copy_pipeline", without_code)
    monkeypatch.setattr(creation, "record", lambda *_: ())
    monkeypatch.delenv("PREFIX_TUNING_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def begin(in_place: Path) -> Callable[..., Begun]:
    """Runs `init` on rows, which are written as a CSV file or as JSON lines."""

    def run(rows: Sequence[Row], *options: str, suffix: str = ".jsonl") -> Begun:
        path = write_rows(in_place / f"mine{suffix}", rows)
        result = init("new", "--data", path, *options)
        assert result.exit_code == 0, result.stderr
        return Begun(in_place / "new", result.stdout)

    return run


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def questions(count: int = 40) -> list[Row]:
    """Rows of the simplest form."""
    return [
        {"question": f"How high is hill {index}, in metres?", "answer": f"{index * 7} m"}
        for index in range(count)
    ]
