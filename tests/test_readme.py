"""The README's snippets work as they are pasted."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.config import load_params
from tests.conftest import CORPUS, ROOT
from tests.prefix.architectures import SETTINGS
from tests.prefix.encoders import ENCODER_DECODERS, ENCODERS
from tests.prefix.table import BEGIN, END

README = (ROOT / "README.md").read_text(encoding="utf-8")


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


def test_the_folders_it_names_exist() -> None:
    for name in re.findall(r"`(pipeline/[a-z_]+/)`", README):
        assert (ROOT / name).is_dir(), name


def test_it_shows_the_tables_of_architectures() -> None:
    """Those of docs/architectures.md, as one command writes both."""
    _, _, rest = README.partition(BEGIN)
    shown = rest.partition(END)[0].splitlines()
    written = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in written if line.startswith("|")]
    assert [line for line in shown if line] == rows
    assert len(rows) == len(SETTINGS) + len(ENCODER_DECODERS) + len(ENCODERS) + 4
