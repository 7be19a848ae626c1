"""What params.yaml may hold comes through `dvc exp run -S` unchanged; the rest is refused."""

from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException
from ruamel.yaml import YAML

from pipeline.config.interpolation import refused_by_dvc

BREAKS = (
    *("${x}", "a ${", "${{ price }}", "{% if a %}${{ a }}{% endif %}", "$${x}", "${", "???"),
    *("${train.rate}", "${oc.env:HOME}", r"\${x}", r"a \\\${x} b", "line\n${"),
)
PASSES = ("$", "{{ '$' }}{{ price }}", "$5 {}", "$ {x}", "a ???", "????", "}", "\\", "null", "%{x}")


def set_by_dvc(task: Any, folder: Path) -> Any:
    """The section after `dvc exp run -S train.rate=2`, which DVC writes into params.yaml so."""
    path = folder / "params.yaml"
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    with path.open("w", encoding="utf-8") as file:
        yaml.dump({"task": task, "train": {"rate": 1}}, file)
    apply_overrides(str(path), ["train.rate=2"])
    written = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    assert written["train"] == {"rate": 2}
    return written["task"]


@pytest.mark.parametrize("text", BREAKS)
def test_what_fails_there_or_is_replaced_is_refused(text: str, tmp_path: Path) -> None:
    task = {"input_template": text, "words": ["a", text]}
    first, second = refused_by_dvc({"task": task})
    assert first.startswith("task.input_template")
    assert second.startswith("task.words.1")
    try:
        after = set_by_dvc(task, tmp_path)
    except OmegaConfBaseException:
        return
    assert after != task


@pytest.mark.parametrize("text", PASSES)
def test_what_passes_there_is_not(text: str, tmp_path: Path) -> None:
    task = {"input_template": text, "words": [text, {"a": text}]}
    assert not list(refused_by_dvc({"task": task}))
    assert set_by_dvc(task, tmp_path) == task


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="${}\\?x. '\n:", max_size=8))
def test_whatever_is_not_refused_passes(tmp_path_factory: Any, text: str) -> None:
    if not list(refused_by_dvc({"task": text})):
        assert set_by_dvc([text], Path(tmp_path_factory.getbasetemp())) == [text]
