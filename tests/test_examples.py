"""Examples say what differs from params.yaml, and one command puts one in place and back."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.cli.main import main
from pipeline.config import load_params
from pipeline.config.load import read_yaml
from pipeline.storage.records import read_jsonl
from tests.conftest import ROOT

# Written as a whole, not key by key.
_WHOLE = ("self_study", "initializations", "baselines", "trained_baselines", "library")
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.yaml"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default params and the examples."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def params(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["params", *arguments])


def put(example: str) -> None:
    result = params(f"examples/{example}")
    assert result.exit_code == 0, result.stderr


def _plain(section: Any) -> dict[str, Any]:
    return dict(section) if isinstance(section, dict) else dict(section.model_dump())


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_differs(folder: Path, name: str) -> None:
    default = load_params()
    put(name)
    composed = load_params()
    changes = read_yaml(folder / "examples" / name)
    for section, keys in changes.items():
        found, before = (_plain(getattr(params, section)) for params in (composed, default))
        assert keys.keys() <= found.keys()
        # What an example repeats is not said by it.
        assert found != before, section
        if section not in (*_WHOLE, "data"):
            assert not [key for key in keys if found[key] == before.get(key)], section
    for section in set(type(default).model_fields) - set(changes):
        assert getattr(composed, section) == getattr(default, section)


def test_what_is_asked_of_the_country_stands_in_its_profile() -> None:
    folder = ROOT / "examples" / "country"
    profile = (folder / "profile.md").read_text("utf-8")
    questions = read_jsonl(folder / "test.jsonl")
    assert len({row["question"] for row in questions}) == len(questions) > 100
    for row in questions:
        section, field = row["id"].split("/", 1)
        below = profile.partition(f"## {section}\n")[2].partition("\n## ")[0]
        assert f"\n{field}: {row['answer']}\n" in below, row


def test_a_list_of_names_is_replaced_and_other_keys_are_joined(folder: Path) -> None:
    put("webnlg.yaml")
    composed = load_params()
    assert list(composed.initializations) == ["random", "demonstrations"]
    assert composed.data.source == "files"
    assert composed.sweep.initializations == ["random", "demonstrations"]
    assert composed.sweep.lengths == [8, 32]
    text = (folder / "params.yaml").read_text()
    assert "# the split that intervals and verdicts are of" in text
    # Comments above a section stay above it, whatever becomes of the one before.
    assert "# How a row becomes the model's input and its target." in text
    assert text.index("# The variants: every combination") < text.index("\nsweep:")


def test_examples_do_not_add_up_and_the_params_of_before_come_back(folder: Path) -> None:
    with (folder / "params.yaml").open("a") as file:
        file.write("# my own comment\n")
    before = (folder / "params.yaml").read_text()
    put("webnlg.yaml")
    put("initializations.yaml")
    assert load_params().data.source == "factbook"
    assert load_params().mlflow.experiment == "prefix-tuning"
    assert params("--restore").exit_code == 0
    assert (folder / "params.yaml").read_text() == before
    assert not (folder / "params.yaml.before").exists()


def test_an_example_may_be_edited_and_put_over_again(folder: Path) -> None:
    mine = folder / "my examples" / "mine.yaml"
    mine.parent.mkdir()
    mine.write_text("train: {learning_rate: 0.01}\ndata: {max_examples: {train: 100}}\n")
    assert params(str(mine)).exit_code == 0
    assert load_params().data.max_examples.train == 100
    assert load_params().data.max_examples.test == 80
    mine.write_text("train: {learning_rate: 0.02}\n")
    assert params(str(mine)).exit_code == 0
    assert load_params().train.learning_rate == 0.02
    assert load_params().data.max_examples.train == 240
    mine.unlink()
    assert params("--restore").exit_code == 0
    assert (folder / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_another_data_set_keeps_no_key_of_the_one_before(folder: Path) -> None:
    hub = "data: {{source: hub, path: requirements.lock, id: {0}, revision: main{1}}}\n"
    rest = "evaluate: {splits: [test]}\n"
    (folder / "one.yaml").write_text(hub.format("org/one", ", name: en") + rest)
    assert params("one.yaml").exit_code == 0
    (folder / "params.yaml.before").unlink()
    (folder / "two.yaml").write_text(hub.format("org/two", ""))
    assert params("two.yaml").exit_code == 0
    data = load_params().data.model_dump()
    assert (data["id"], data["name"]) == ("org/two", None)


def test_a_clone_without_the_params_of_before(folder: Path) -> None:
    put("webnlg.yaml")
    (folder / "params.yaml.before").unlink()
    assert params("--restore").exit_code == 1
    (folder / "mine.yaml").write_text("train: {learning_rate: 0.01}\n")
    assert params("mine.yaml").exit_code == 0
    assert load_params().mlflow.experiment == "webnlg"
    assert (folder / "params.yaml").read_text().count("unedited while sha256") == 1


def test_nothing_of_the_persons_is_lost(folder: Path) -> None:
    put("webnlg.yaml")
    with (folder / "params.yaml").open("a") as file:
        file.write("# an edit\n")
    edited = (folder / "params.yaml").read_text()
    for arguments in (["examples/initializations.yaml"], ["--restore"]):
        result = params(*arguments)
        assert result.exit_code == 1
        assert "was edited since examples/webnlg.yaml was put over it" in result.stderr
        assert (folder / "params.yaml").read_text() == edited
    shutil.copy(ROOT / "params.yaml", folder)
    with (folder / "params.yaml.before").open("a") as file:
        file.write("# an edit of before\n")
    assert "move it away" in params("examples/webnlg.yaml").stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: {learning_rate: fast}", "train.learning_rate: 'fast' should be a valid number"),
        ("trian: {learning_rate: 1}", "trian is no section; use one of: model, data"),
        ("sweep: {lengths: [0]}", "sweep.lengths.0 = 0 should be greater than or equal to 1"),
        ("[1]", "must be a mapping"),
        ("train:", "train holds no keys; write those that differ below"),
        ("train: [a]", "train holds no keys"),
        ("train: {epochs: 2", "is no valid YAML"),
        ("x: &a {epochs: 2}\ntrain: *a", "x is no section"),
    ],
)
def test_a_mistake_changes_nothing(folder: Path, text: str, expected: str) -> None:
    before = (folder / "params.yaml").read_text()
    (folder / "mine.yaml").write_text(text)
    result = params("mine.yaml")
    assert result.exit_code == 1
    assert expected in result.stderr
    assert "mine.yaml" in result.stderr
    assert (folder / "params.yaml").read_text() == before
    assert not (folder / "params.yaml.before").exists()


def test_one_of_example_and_restore(folder: Path) -> None:
    assert params().exit_code == 2
    assert params("examples/webnlg.yaml", "--restore").exit_code == 2
    assert "there is none that could be put back" in params("--restore").stderr
