"""An example holds only what differs, and makes a whole, valid params.yaml with one command."""

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from pipeline.cli.main import main
from pipeline.config import load_params
from pipeline.config.compose import DEFAULT, compose
from tests.conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
WHOLE = {"initializations", "baselines", "trained_baselines"}


def read(text: str) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(text))


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["params", *arguments])
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.splitlines()) == 1
    return result.stdout.strip()


def refused(*arguments: str) -> str:
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    result = CliRunner().invoke(main, ["params", *arguments])
    assert result.exit_code == 1
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before
    return result.stderr.strip()


@pytest.fixture
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("# Mine.\nedited: true\n")


def test_the_default_that_examples_are_put_into_is_params_yaml() -> None:
    """After an edit of params.yaml that is meant for all: cp params.yaml to DEFAULT."""
    assert (ROOT / "params.yaml").read_bytes() == DEFAULT.read_bytes()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_the_default_with_what_it_says(path: Path, tmp_path: Path) -> None:
    asked, default = read(path.read_text()), read(DEFAULT.read_text())
    text = compose(path)
    (tmp_path / "params.yaml").write_text(text)
    load_params(tmp_path / "params.yaml")
    composed = read(text)
    assert composed.keys() == default.keys()
    for name, section in composed.items():
        own = asked.get(name, {})
        source = default[name].get("source")
        if (name in WHOLE and name in asked) or own.get("source", source) != source:
            assert section == own
        else:
            assert section == default[name] | own
            assert all(default[name].get(key, key) != value for key, value in own.items()), name


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_comments_stay_with_what_they_explain(path: Path) -> None:
    text = compose(path)
    # Above sections; beside and between keys of those that the example does not write anew.
    for line in re.findall(r"^# .*", DEFAULT.read_text() + path.read_text(), flags=re.MULTILINE):
        assert line in text.splitlines()
    for comment in ("# virtual tokens", "# peak; default 5e-3", "  # default all. Where task."):
        assert comment in text


def test_the_readme_lists_every_example() -> None:
    readme = (ROOT / "examples" / "README.md").read_text()
    assert set(re.findall(r"PARAMS=examples/(\w+\.yaml)", readme)) == {p.name for p in EXAMPLES}


@pytest.mark.usefixtures("_inside")
def test_no_edit_is_lost() -> None:
    one, other = (str(path) for path in EXAMPLES[:2])
    assert run(one) == f"params.yaml is the default with {one} now; the one before is " + (
        "params.yaml.before"
    )
    assert Path("params.yaml.before").read_text() == "# Mine.\nedited: true\n"
    assert run(one) == f"params.yaml is the default with {one} already"
    with Path("params.yaml").open("a") as file:
        file.write("# Edited.\n")
    assert "params.yaml.before-2" in run(other)
    assert Path("params.yaml.before-2").read_text().endswith("# Edited.\n")
    assert Path("params.yaml.before").read_text() == "# Mine.\nedited: true\n"
    Path("params.yaml").write_text("# Mine.\nedited: true\n")
    assert run() == "params.yaml is the default now; the one before is params.yaml.before"
    assert Path("params.yaml").read_bytes() == DEFAULT.read_bytes()
    Path("params.yaml").unlink()
    assert run() == "params.yaml is the default now"
    assert len(list(Path().iterdir())) == 3


@pytest.mark.usefixtures("_inside")
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("trainn: {epochs: 2}", "trainn: unknown section; known sections: model, data, task, init"),
        ("train: {epoch: 2}", "train.epoch: unknown key; did you mean 'epochs'?"),
        ("train: 3", "train = 3 should be"),
        ("sweep: {lengths: []}", "sweep.lengths"),
        ("- a", "must be a mapping of sections"),
        ("train: {epochs: 2", "is no valid YAML"),
        ("initializations:", "initializations = None should be"),
        ("'train': {epochs: 2}\n'data': {source: files}", "begin each section with its name"),
        ("data: {source: hub, id: a/b, revision: c}", "data.path: is missing"),
    ],
)
def test_a_mistake_changes_nothing(text: str, sentence: str) -> None:
    Path("mine.yaml").write_text(text + "\n")
    said = refused("mine.yaml")
    assert said.startswith("error: mine.yaml: ")
    assert sentence in said


@pytest.mark.usefixtures("_inside")
def test_a_file_that_is_not_there() -> None:
    assert "nowhere.yaml: no such file" in refused("nowhere.yaml")


@pytest.mark.usefixtures("_inside")
def test_keys_of_the_same_source_and_empty_sections() -> None:
    """Model and data merge like any other section while they name no other source."""
    text = "data:\n  seed: 3\nmodel: {dtype: float32}\nprefix:\ncheckpoints: {}\nbaselines: {}\n"
    Path("mine.yaml").write_text(text)
    run("mine.yaml")
    default, composed = (read(path.read_text()) for path in (DEFAULT, Path("params.yaml")))
    assert composed["data"] == default["data"] | {"seed": 3}
    assert composed["model"] == default["model"] | {"dtype": "float32"}
    assert composed["baselines"] == {}
    for name in ("prefix", "checkpoints", "train"):
        assert composed[name] == default[name]
