"""A project of `init` runs by real DVC: from a clone by the page's commands, and once installed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.project.files import copy_pipeline
from pipeline.storage.records import read_csv
from tests.conftest import ROOT, Workspace
from tests.project.conftest import questions, write_rows

pytestmark = pytest.mark.real

PAGE = (ROOT / "docs" / "your_own_data.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Those of the page's first block, which leads from nothing to a compared pair."""
    found = re.search(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    assert found is not None
    return found[1].strip().splitlines()


@pytest.fixture
def clone(tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The repository's files with a person's CSV beside them.

    What `make setup` makes is the environment of the tests, and a tiny model stands for SmolLM2.
    """
    root = tmp_path / "clone"
    root.mkdir()
    copy_pipeline(root)
    shutil.copy(ROOT / "params.yaml", root)
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "activate").touch()
    (root / "make").write_text("#!/bin/sh\n")
    (root / "make").chmod(0o755)
    rows = [
        {"Review": f"{row['question']} so {i % 7}", "Verdict": ("good", "bad")[i % 2]}
        for i, row in enumerate(questions(40))
    ]
    write_rows(root / "reviews.csv", rows)
    monkeypatch.setenv("PREFIX_TUNING_MODEL", str(model_folder))
    monkeypatch.setenv("PATH", f"{root}{os.pathsep}{os.environ['PATH']}")
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test@localhost")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    (tmp_path / "gitconfig").write_text("[user]\n\tname = test\n\temail = test@localhost\n")
    return Workspace(root)


def test_the_commands_of_the_page_lead_to_a_compared_pair(clone: Workspace) -> None:
    assert len(commands()) < 10
    output = clone.run("bash", "-euc", "\n".join(commands())).stdout
    assert "'Verdict' has 2 different values" in output
    assert "params.yaml is valid" in output
    project = Workspace(clone.root.parent / "my-project")
    table = read_csv(project.root / "data" / "report" / "summary.csv")
    pair = ["len16-vocabulary-seed0", "len16-demonstrations-seed0"]
    assert {*pair, "no_prefix", "few_shot"} == set(table["name"])
    assert all(name in output for name in pair)
    assert (project.root / "data" / "report" / "report.html").exists()
    # All is in git but the data, which DVC has, and what the run added.
    assert project.run("git", "status", "--short").stdout == "?? dvc.lock\n"
    tracked = project.run("git", "ls-files").stdout.splitlines()
    assert {"params.yaml", "dvc.yaml", "inputs.dvc", "pipeline/__main__.py"} <= set(tracked)
    assert not [path for path in tracked if path.startswith("inputs/")]
    assert "up to date" in project.run("dvc", "status").stdout
    # Another project begins with the default params, whatever this one's are.
    assert (
        "params.yaml is valid"
        in project.pipeline("init", "../next", "--data", "../clone/reviews.csv").stdout
    )
    following = (project.root.parent / "next" / "params.yaml").read_text()
    assert following.count("guessed: 'Verdict'") == 2
    assert (
        following.replace("experiment: next ", "experiment: my-project ").split()
        == (project.root / "params.yaml").read_text().split()
    )
    # Begun anew from within, it leaves what to commit to its owner.
    (project.root / "notes.txt").touch()
    (project.root / ".dvc" / "config").write_text("[core]\n    remote = mine\n")
    again = project.pipeline("init", ".", "--data", "../clone/reviews.csv", "--force").stdout
    assert "git: nothing is committed; `git add` and commit it in the repository" in again
    assert len(project.run("git", "log", "--oneline").stdout.splitlines()) == 1
    assert "remote = mine" in (project.root / ".dvc" / "config").read_text()
    # An edit of the data is noticed.
    with (project.root / "inputs" / "train.jsonl").open("a") as file:
        file.write('{"Review": "One more?", "Verdict": "good"}\n')
    assert "fetch_data" in project.run("dvc", "repro", "--dry", "fetch_data").stdout


def test_within_a_git_repository_it_stays_a_part(clone: Workspace) -> None:
    mine = clone.root.parent / "mine"
    mine.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=mine, check=True)
    said = clone.pipeline("init", "../mine/sub", "--data", "reviews.csv").stdout
    assert f"git: nothing is committed; `git add` and commit it in the repository of {mine}" in said
    project = Workspace(mine / "sub")
    assert not (project.root / ".git").exists()
    assert project.run("git", "log", check=False).returncode != 0
    assert "params.yaml is valid" in project.pipeline("check").stdout
    assert "fetch_data" in project.run("dvc", "repro", "--dry", "fetch_data").stdout


def test_in_the_clone_it_is_a_repository_of_its_own(clone: Workspace, tmp_path: Path) -> None:
    clone.run("git", "init", "-q")
    # git that knows nobody commits nothing.
    (tmp_path / "gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    said = clone.pipeline("init", "new", "--data", "reviews.csv").stdout
    assert "git: a repository of its own, nothing committed, since git does not know you" in said
    new = Workspace(clone.root / "new")
    assert (new.root / ".git").is_dir()
    assert "A  params.yaml" in new.run("git", "status", "--short").stdout


def test_an_installed_package_begins_the_same_project(clone: Workspace, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    copy_pipeline(source)
    for name in ("pyproject.toml", "params.yaml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    into = tmp_path / "installed"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation")
    clone.run(*pip, "--prefix", str(into), str(source))
    (packages,) = into.glob("lib*/python*/site-packages")
    (tmp_path / "elsewhere").mkdir()
    away = Workspace(tmp_path / "elsewhere")
    shutil.copy(clone.root / "reviews.csv", away.root)
    script = ("env", f"PYTHONPATH={packages}", str(into / "bin" / "prefix-tuning"))
    said = away.run(*script, "init", "new", "--data", "reviews.csv").stdout
    assert "params.yaml is valid" in said
    new = away.root / "new"
    for path in source.rglob("*"):
        inner = path.relative_to(source)
        beside = (*("pyproject.toml", "README.md", "params.yaml", "LICENSE"), "build")
        if path.is_file() and inner.parts[0] not in beside and "egg-info" not in str(inner):
            assert (new / inner).exists(), inner
    assert "guessed: 'Verdict'" in (new / "params.yaml").read_text()
    assert (new / "dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()
    # In a project the script runs the code of the project, as its stages do.
    (new / "pipeline" / "cli" / "main.py").write_text("def main(**_): print('my own code')\n")
    project = Workspace(new)
    assert project.run(*script, "check").stdout == "my own code\n"
