"""What gives no project is told in one sentence, and nothing is written."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.config.load import read_yaml
from pipeline.project import creation
from tests.conftest import ROOT
from tests.project.conftest import init, questions, write_rows

ONE = [{"text": f"line {index}"} for index in range(30)]
SAME = [{"question": "why?", "answer": f"{index}"} for index in range(30)]


def files(folder: Path) -> None:
    """What the cases below name."""
    write_rows(folder / "good.csv", questions())
    write_rows(folder / "one_column.csv", ONE)
    write_rows(folder / "few.csv", questions(9))
    write_rows(folder / "same.csv", SAME)
    write_rows(folder / "test.csv", questions())
    write_rows(folder / "train.csv", questions())
    write_rows(folder / "training.csv", questions())
    blank = [{"question": "", "answer": f"{index}"} for index in range(30)]
    write_rows(folder / "blank.csv", [*blank, *questions(3)])
    objects = [{"a": {"b": index}, "c": {"d": 1}} for index in range(30)]
    write_rows(folder / "objects.jsonl", objects)
    said = [{"speaker": "human", "text": "hi"}]
    write_rows(folder / "speakers.jsonl", [{"conversations": said} for _ in range(30)])
    write_rows(folder / "verdicts_test.csv", [{"text": "x", "verdict": "y"}])
    (folder / "empty.csv").touch()
    (folder / "notes.docx").write_text("x")
    (folder / "semicolons.csv").write_text("question;answer\nwhy?;so\n")
    (folder / "latin.csv").write_bytes("question,answer\nwho?,Zoë\n".encode("latin-1"))
    (folder / "blank.txt").write_text(" \n")
    (folder / "folder").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "kept").touch()


REFUSED: dict[str, tuple[list[str], str]] = {
    "no such file": (["--data", "none.csv"], "--data: there is no file 'none.csv'"),
    "a kind that is not read": (["--data", "notes.docx"], "--data: 'notes.docx' is none of .jsonl"),
    "a folder": (["--data", "folder"], "--data: 'folder' is none of .jsonl"),
    "an empty file": (["--data", "empty.csv"], "--data: 'empty.csv' holds no rows"),
    "one column": (
        ["--data", "one_column.csv"],
        "--data: it has one column, 'text'; a column that",
    ),
    "few rows": (
        ["--data", "few.csv"],
        "--data: 9 rows to train, validate and test on are too few",
    ),
    "few rows that say something": (
        ["--data", "blank.csv"],
        "3 rows to train, validate and test on are too few (30 more have an empty input",
    ),
    "one input": (
        ["--data", "same.csv", "--input", "question", "--target", "answer"],
        "1 different inputs",
    ),
    "other delimiters": (["--data", "semicolons.csv"], "which ';' seems to divide"),
    "another encoding": (["--data", "latin.csv"], "line 2 is not UTF-8 text"),
    "no column that is text": (["--data", "objects.jsonl"], "no column is text (columns: a, c)"),
    "turns of another form": (["--data", "speakers.jsonl"], "each with a role and a content, or"),
    "no such input": (
        ["--data", "good.csv", "--input", "q"],
        "--input: 'q' is no column; there are: question, answer",
    ),
    "no such target": (["--data", "good.csv", "--target", "q"], "--target: 'q' is no column"),
    "twice the same": (
        ["--data", "good.csv", "--input", "answer", "--target", "answer"],
        "--target: 'answer' is --input as well",
    ),
    "files that say no split": (
        ["--data", "good.csv", "few.csv"],
        "'good.csv' does not say in its name",
    ),
    "two of one split": (["--data", "train.csv", "training.csv"], "are both train; give one"),
    "other columns": (
        ["--data", "train.csv", "verdicts_test.csv"],
        "--data: 'verdicts_test.csv' has no column 'question', which another file has; its columns "
        "are: text, verdict",
    ),
    "no training": (["--data", "test.csv"], "none of test.csv is named after train"),
    "no such model": (
        ["--data", "good.csv", "--model", "./none"],
        "'./none' is no folder, and no id",
    ),
    "a folder that is no model": (
        ["--data", "good.csv", "--model", "folder"],
        "has no config.json",
    ),
    "a task that the columns are not": (
        ["--data", "good.csv", "--task", "token_cls"],
        "needs two columns",
    ),
    "labels of one row each": (
        ["--data", "good.csv", "--task", "seq_cls"],
        "--task: a seq_cls needs labels that several rows have, and none is left for validation",
    ),
    "no such corpus": (
        ["--data", "good.csv", "--corpus", "c.txt"],
        "--corpus: there is no file 'c.txt'",
    ),
    "an empty corpus": (["--data", "good.csv", "--corpus", "blank.txt"], "'blank.txt' is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_told_and_nothing_is_written(in_place: Path, name: str) -> None:
    files(in_place)
    before = sorted(in_place.rglob("*"))
    arguments, expected = REFUSED[name]
    result = init("new", *arguments)
    assert result.exit_code == 1, result.stdout
    assert expected in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert sorted(in_place.rglob("*")) == before


def test_a_folder_with_content_is_kept(in_place: Path) -> None:
    files(in_place)
    result = init("full", "--data", "good.csv")
    assert result.exit_code == 1
    assert "FOLDER: 'full' is not empty; name a new folder, or add --force" in result.stderr
    assert [path.name for path in (in_place / "full").iterdir()] == ["kept"]
    assert (
        "'good.csv' is a file; name a new folder" in init("good.csv", "--data", "good.csv").stderr
    )


def test_force_replaces_the_projects_files_and_keeps_all_others(in_place: Path) -> None:
    files(in_place)
    assert init("full", "--data", "train.csv", "--force").exit_code == 0
    full = in_place / "full"
    (full / "inputs" / "old.jsonl").touch()
    (full / "data" / "model").mkdir(parents=True)
    (full / "params.yaml").write_text("mine")
    assert init("full", "--data", "good.csv", "--force").exit_code == 0
    assert (full / "kept").exists()
    assert (full / "data" / "model").is_dir()
    assert not (full / "inputs" / "old.jsonl").exists()
    assert "guessed: " in (full / "params.yaml").read_text()
    assert not list(in_place.glob(".project-*"))


def test_force_keeps_what_a_person_wrote(in_place: Path) -> None:
    files(in_place)
    assert init("full", "--data", "train.csv", "--force").exit_code == 0
    own = ("README.md", ".gitignore", ".dvc/config", "data/README.md")
    for name in own:
        (in_place / "full" / name).parent.mkdir(exist_ok=True)
        (in_place / "full" / name).write_text("mine")
    assert init("full", "--data", "good.csv", "--force").exit_code == 0
    assert [(in_place / "full" / name).read_text() for name in own] == ["mine"] * len(own)


@pytest.mark.parametrize("name", ["inputs/rows.csv", "pipeline/main.py", "dvc.yaml", "params.yaml"])
def test_force_replaces_no_folder_of_anothers(in_place: Path, name: str) -> None:
    files(in_place)
    own = in_place / "full" / name
    own.parent.mkdir(exist_ok=True)
    own.write_text("mine")
    result = init("full", "--data", "good.csv", "--force")
    assert result.exit_code == 1
    top = Path(name).parts[0]
    assert (
        f"FOLDER: 'full' is no project of init, and --force would replace its {top}; "
        in result.stderr
    )
    assert own.read_text() == "mine"


def test_data_that_would_be_replaced(in_place: Path) -> None:
    files(in_place)
    assert init("full", "--data", "good.csv", "--force").exit_code == 0
    own = in_place / "full" / "inputs" / "all.csv"
    own.write_bytes((in_place / "good.csv").read_bytes())
    result = init("full", "--data", own, "--force")
    assert "is in full/inputs, which --force replaces; move it" in result.stderr
    assert own.exists()


def test_the_clone_is_no_project(in_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(in_place)
    monkeypatch.setattr(creation, "origin", lambda: in_place / "full")
    for option in ((), ("--force",)):
        result = init("full", "--data", "good.csv", *option)
        assert "FOLDER: 'full' is the clone itself; name a new folder" in result.stderr


def test_the_folder_that_one_is_in(in_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(in_place / "good.csv", questions())
    (in_place / "here").mkdir()
    monkeypatch.chdir(in_place / "here")
    assert init(".", "--data", "../good.csv").exit_code == 0
    assert Path("params.yaml").exists()
    assert "experiment: here" in Path("params.yaml").read_text()


def test_what_a_person_has_changed_of_the_default_params(
    in_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = read_yaml(ROOT / "params.yaml")
    mine["train"] |= {"epochs": None, "max_steps": 7, "learning_rate": 0.25}
    mine["sweep"] |= {"seeds": [1, 2], "train_sizes": [50], "lengths": [200]}
    mine["prefix"] |= {"num_frozen_tokens": 100}
    mine["task"] |= {"loss_on": "all", "input_template": "", "chat_template_date": "2026-01-01"}
    mine["report"]["sort_by"] = "chrf"
    mine["model"] = {"source": "hub", "path": "requirements.lock", "id": "gpt2", "revision": "abc"}
    mine["trained_baselines"] = {"lora": {"type": "lora"}}
    with (in_place / "changed.yaml").open("w") as file:
        YAML(typ="safe").dump(mine, file)
    monkeypatch.setattr(creation, "default_params", lambda: in_place / "changed.yaml")
    write_rows(in_place / "good.csv", questions())
    result = init("new", "--data", "good.csv")
    assert result.exit_code == 0, result.stderr
    params = read_yaml(in_place / "new" / "params.yaml")
    assert params["train"]["learning_rate"] == 0.25
    assert (params["model"]["id"], params["model"]["revision"]) == ("gpt2", "abc")
    assert params["task"]["use_chat_template"] is False
    assert params["trained_baselines"] == {}


def test_without_data_or_git(in_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(in_place / "good.csv", questions())
    assert "give --data" in init("new").stderr
    monkeypatch.setenv("PATH", str(in_place))
    assert "git: is not installed" in init("new", "--data", "good.csv").stderr
