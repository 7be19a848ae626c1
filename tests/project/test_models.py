"""`init` suits the task to the model: one in a folder by its files, another by its name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from pipeline.config.task import TaskParams
from pipeline.data.rendering import Renderer
from tests.conftest import tiny_tokenizer
from tests.project.conftest import Begun, init, questions, write_rows

Begin = Callable[..., Begun]
LABELLED = [{"text": f"line {i} of many", "label": ("yes", "no")[i % 2]} for i in range(40)]


@pytest.mark.parametrize(
    ("name", "kind", "is_chat"),
    [
        ("HuggingFaceTB/SmolLM2-360M-Instruct", "causal_lm", True),
        ("google/gemma-3-270m-it", "causal_lm", True),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "causal_lm", True),
        ("gpt2", "causal_lm", False),
        ("google/flan-t5-small", "seq2seq_lm", False),
        ("facebook/bart-base", "seq2seq_lm", False),
        ("google-bert/bert-base-uncased", "seq_cls", False),
        ("FacebookAI/roberta-base", "seq_cls", False),
    ],
)
def test_a_model_of_the_hub_by_its_name(begin: Begin, name: str, kind: str, is_chat: bool) -> None:
    begun = begin(LABELLED, "--model", name)
    params = begun.params
    assert params["model"] == {
        **{"source": "hub", "path": "requirements.lock"},
        **{"id": name, "revision": "main"},
    }
    assert (params["task"]["type"], params["task"]["use_chat_template"]) == (kind, is_chat)
    assert f"model: {name} of the Hugging Face Hub" in begun.said


def test_a_model_that_only_continues_is_asked(begin: Begin) -> None:
    task = begin(questions(), "--model", "gpt2").params["task"]
    assert task["input_template"] == "{{ question }}\n\nAnswer:"
    assert task["target_template"] == " {{ answer }}"
    assert task["system_prompt"] is None


def test_a_folder_with_a_chat_template_is_measured(begin: Begin, model_folder: Path) -> None:
    params = begin(questions(), "--model", str(model_folder)).params
    assert params["model"]["path"] == str(model_folder.resolve())
    assert params["task"]["use_chat_template"] is True
    keys = {k: v for k, v in params["task"].items() if k in TaskParams.model_fields}
    renderer = Renderer(TaskParams.model_validate(keys), tiny_tokenizer())
    lengths = [len(renderer.tokenize({"id": "0", **row})["input_ids"]) for row in questions()]
    assert max(lengths) + 2 <= params["task"]["max_length"] < max(lengths) + 18


def test_a_folder_without_one(begin: Begin, model_folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model_folder, bare)
    for path in bare.glob("chat_template*"):
        path.unlink()
    config = bare / "tokenizer_config.json"
    known = json.loads(config.read_text())
    known.pop("chat_template", None)
    config.write_text(json.dumps(known))
    assert begin(questions(), "--model", str(bare)).params["task"]["use_chat_template"] is False


SMALL: dict[str, Any] = {"vocab_size": 260, "num_hidden_layers": 1, "num_attention_heads": 2}


def saved(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    config = BertConfig(**SMALL, hidden_size=16, intermediate_size=16)
    return saved(tmp_path / "encoder", BertForMaskedLM(config))


def test_an_encoder_tells_labels(begin: Begin, encoder: Path) -> None:
    params = begin(LABELLED, "--model", str(encoder)).params
    assert params["task"]["type"] == "seq_cls"
    assert params["task"]["input_template"] == "{{ text }}"
    assert "few_shot" not in params["baselines"]


def test_an_encoder_writes_no_text(in_place: Path, encoder: Path) -> None:
    path = write_rows(in_place / "mine.csv", questions())
    result = init("new", "--data", path, "--model", encoder)
    assert (
        "'encoder' writes no text, and 'answer' is no label (40 different values)" in result.stderr
    )


def test_an_encoder_decoder_writes(begin: Begin, tmp_path: Path) -> None:
    config = T5Config(vocab_size=260, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    folder = saved(tmp_path / "both", T5ForConditionalGeneration(config))
    params = begin(questions(), "--model", str(folder)).params
    assert params["task"]["type"] == "seq2seq_lm"
    assert params["task"]["target_template"] == "{{ answer }}"
    assert list(params["baselines"]) == ["no_prefix"]
