"""The README's snippets work as they are pasted, and the documents name what there is."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.config import load_params
from tests.conftest import CORPUS, ROOT
from tests.prefix.architectures import SETTINGS
from tests.prefix.encoders import ENCODER_DECODERS, ENCODERS

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = {
    str(path.relative_to(ROOT)): path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md"))
}


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("snippet", snippets("yaml"))
def test_a_params_snippet_replaces_its_sections(snippet: str, tmp_path: Path) -> None:
    yaml = YAML(typ="safe")
    params: dict[str, Any] = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params.update(yaml.load(snippet))
    with (tmp_path / "params.yaml").open("w") as file:
        yaml.dump(params, file)
    assert load_params(tmp_path / "params.yaml")


def test_the_python_snippet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    (snippet,) = snippets("python")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "model").symlink_to(model_folder)
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "reading_records.txt").write_text(CORPUS)
    names: dict[str, Any] = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert names["again"].prefix_config.num_virtual_tokens == 20
    assert (tmp_path / "my-prefix" / "adapter_model.safetensors").exists()
    frozen = [p for p in names["frozen_model"].parameters() if p.grad is not None]
    assert not frozen
    assert all(p.grad is not None for p in names["model"].encoder.parameters())


def tree() -> list[str]:
    """The paths of the file tree, each line's under the folder that it is indented below."""
    (drawn,) = snippets("text")
    paths: list[str] = []
    folders: list[str] = []
    for line in drawn.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], name]
        paths.append("".join(folders))
    return paths


def test_the_tree_is_that_of_the_repository() -> None:
    for path in tree():
        assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file(), path
    rooms = {f"{path.parent.relative_to(ROOT)}/" for path in ROOT.glob("pipeline/*/__init__.py")}
    parts = {f"{path.parent.relative_to(ROOT)}/" for path in ROOT.glob("pipeline/prefix/*/*.py")}
    assert rooms | parts <= set(tree())


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_the_paths_it_names_exist(name: str) -> None:
    text = DOCUMENTS[name].read_text(encoding="utf-8")
    for path in re.findall(r"`((?:pipeline|tests|docs|examples|corpora)/[^`*<> ]+)", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", text):
        assert (DOCUMENTS[name].parent / link).exists(), link


def test_it_counts_the_architectures_of_the_tables() -> None:
    counted = f"{len(SETTINGS)} decoders and {len(ENCODER_DECODERS) + len(ENCODERS)} models with"
    assert counted in README
    written = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in written if line.startswith("|")]
    assert len(rows) == len(SETTINGS) + len(ENCODER_DECODERS) + len(ENCODERS) + 4
