"""dvc.yaml says of every stage what its output depends on, no less and no more."""

import re
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.training.identity import code_of_training
from tests.conftest import ROOT
from tests.graph.closure import APART, SECTIONS_APART, files_below, files_of, sections_read

STAGES: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]


def _definition(stage: str) -> dict[str, Any]:
    definition = STAGES[stage]
    return dict(definition.get("do", definition))


def _module(stage: str) -> str:
    """The file of pipeline/stages that a stage's command runs."""
    found = re.match(r"python -m pipeline (\w+)", _definition(stage)["cmd"])
    assert found is not None, stage
    return found[1]


def _declared(stage: str) -> list[str]:
    return [path for path in _definition(stage)["deps"] if path.startswith("pipeline/")]


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_files_that_shape_the_output(stage: str) -> None:
    needed = files_of(_module(stage))
    listed: set[str] = set()
    for path in _declared(stage):
        assert (ROOT / path).exists(), f"{stage}: deps name {path}, which is not there"
        below = files_below(path)
        assert not below & listed, f"{stage}: {path} is listed twice"
        listed |= below
    missing, superfluous = sorted(needed - listed), sorted(listed - needed)
    assert not missing, f"{stage}: add to its deps in dvc.yaml: {', '.join(missing)}"
    assert not superfluous, f"{stage}: cannot shape its output: {', '.join(superfluous)}"


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_sections_that_are_read(stage: str) -> None:
    declared = {key.split(".")[0] for key in _definition(stage)["params"]}
    read = sections_read(_module(stage))
    assert sorted(read - declared) == [], f"{stage}: add to its params in dvc.yaml"
    assert sorted(declared - read) == [], f"{stage}: reads no such section"


@pytest.mark.parametrize("stage", STAGES)
def test_a_needed_line_that_is_deleted_is_missed(stage: str) -> None:
    """No line of the deps is covered by another: without it the first test fails."""
    needed = files_of(_module(stage))
    for path in _declared(stage):
        others = set().union(*(files_below(other) for other in _declared(stage) if other != path))
        assert needed - others, f"{stage}: {path}"


def test_what_is_left_out_exists() -> None:
    from pipeline.config import Params

    for name in APART:
        path = ROOT / name.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), name
    assert set(SECTIONS_APART) <= set(Params.model_fields)


def test_a_checkpoint_is_of_the_code_that_dvc_watches() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in code_of_training()}
    docstrings = {name for name in files if name.endswith("/__init__.py")}
    assert files_of("train") <= files
    assert files - files_of("train") <= docstrings
