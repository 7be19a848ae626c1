"""What does not fit a task type is refused in one sentence, before any work where it can be."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.inference.generator import generator_of
from pipeline.prefix import PrefixError
from pipeline.preflight.context import check_examples
from pipeline.preflight.files import check_files
from pipeline.serving.formats import Wanted, export_prefixes
from pipeline.stages import fetch_data, fetch_model, kv_prefix, train
from pipeline.stages import tokenize as tokenize_stage
from pipeline.storage.records import read_json
from pipeline.sweep.grid import sweep
from tests.prefix.encoders import build
from tests.task_runs import MODELS, params_for


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "a chat with an encoder": (
        "seq2seq_lm",
        {"task": {"use_chat_template": True}},
        "task: use_chat_template: true needs type: causal_lm",
    ),
    "a metric of texts for labels": (
        "seq_cls",
        {"report": {"sort_by": "token_f1"}},
        "report.sort_by: 'token_f1' is not measured for task.type: seq_cls",
    ),
    "what only a decoder's training knows": (
        "seq_cls",
        {"trained_baselines": {"lora": {"type": "lora"}}},
        "trained_baselines.lora: lora needs task.type: causal_lm",
    ),
    "a text in the context": (
        "seq2seq_lm",
        {"sweep": {"in_context": ["corpus"]}},
        "sweep.in_context: 'corpus' in the context needs task.type: causal_lm",
    ),
    "an adapter": (
        "seq2seq_lm",
        {"baselines": {"other": {"type": "adapter", "path": "inputs"}}},
        "baselines.other: adapter needs task.type: causal_lm",
    ),
    "words cut off from their labels": (
        "token_cls",
        {"task": {"too_long": "truncate"}},
        "too_long: truncate would part words from their labels",
    ),
    "what validation chooses of texts, beside the sweep": (
        "seq_cls",
        {"initializations": {"best": {"type": "chosen_demonstrations", "path": "data/raw"}}},
        "initializations.best: chosen_demonstrations needs task.type: causal_lm",
    ),
    "labels of a text": (
        "seq2seq_lm",
        {"report": {"sort_by": "accuracy"}},
        "report.sort_by: 'accuracy' is not measured for task.type: seq2seq_lm",
    ),
    "a part twice": (
        "seq2seq_lm",
        {"prefix": {"parts": ["decoder", "decoder"]}},
        "parts lists one twice",
    ),
    "an unknown type": ("seq_cls", {"task": {"type": "regression"}}, "task.type = 'regression'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_in_params(folder: Path, name: str) -> None:
    kind, changes, expected = WRONG[name]
    with pytest.raises(PipelineError) as caught:
        params_for(folder, "bert", kind, **changes)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("model", "kind", "expected"),
    [
        ("t5", "causal_lm", "causal_lm needs a decoder alone, but t5 is an encoder-decoder"),
        ("bert", "causal_lm", "needs a model that writes text, which a BertForMaskedLM does not"),
        ("llama", "seq2seq_lm", "seq2seq_lm needs an encoder-decoder (T5, BART, ...), which llama"),
    ],
)
def test_a_model_for_another_task(folder: Path, model: str, kind: str, expected: str) -> None:
    params = params_for(folder, model, "seq_cls", task={"type": kind})
    with pytest.raises(PipelineError, match=re.escape(expected)):
        check_files(params)


@pytest.mark.parametrize(
    ("model", "parts", "expected"),
    [
        ("bert", ["encoder", "cross"], "needs an encoder-decoder, which bert is not; use null"),
        ("bert", ["decoder"], "is of a model with that part, which a BertForMaskedLM has not"),
        ("llama", ["encoder"], "is of a model with that part, which a LlamaForCausalLM has not"),
    ],
)
def test_parts_of_one_part_alone(folder: Path, model: str, parts: list[str], expected: str) -> None:
    params = params_for(folder, model, "seq_cls", prefix={"parts": parts})
    with pytest.raises(PipelineError, match=f"^{re.escape(f'prefix.parts: {parts} {expected}')}"):
        check_files(params)


def test_examples_beyond_an_encoder_decoder_s_positions(folder: Path) -> None:
    params = params_for(
        folder, "bart", "seq2seq_lm", sweep={"initializations": ["random"], "lengths": [4, 120]}
    )
    for stage in (fetch_model, fetch_data, tokenize_stage):
        stage.run(params)
    config = read_json(folder / "data/model/config.json")
    statistics = read_json(folder / "data/tokenized/statistics.json")
    with pytest.raises(PipelineError, match=r"the longest input of train has \d+ tokens, "):
        check_examples(params, config, statistics, len)
    fits = params.model_copy(update={"sweep": params.sweep.model_copy(update={"lengths": [4]})})
    check_examples(fits, config, statistics, len)


def test_labels_that_do_not_fit(folder: Path) -> None:
    params = params_for(folder, "bert", "token_cls", task={"target_template": "{{ most }}"})
    fetch_model.run(params)
    fetch_data.run(params)
    with pytest.raises(PipelineError, match="has 3 words and 1 labels"):
        tokenize_stage.run(params)


def test_a_model_that_cannot_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are missing are never drawn at random in silence."""
    half = build("t5", "EncoderModel", vocab_size=260, pad_token_id=3)
    monkeypatch.setitem(MODELS, "t5", lambda: half)
    params = params_for(folder, "t5", "seq2seq_lm")
    fetch_model.run(params)
    fetch_data.run(params)
    tokenize_stage.run(params)
    with pytest.raises(PipelineError, match=r"which task\.type: seq2seq_lm needs"):
        kv_prefix.run(params, "corpus")


def test_a_part_the_model_has_not(folder: Path) -> None:
    params = params_for(folder, "bert", "seq_cls", prefix={"parts": ["cross"]})
    fetch_model.run(params)
    fetch_data.run(params)
    tokenize_stage.run(params)
    kv_prefix.run(params, "random")
    with pytest.raises(PrefixError, match="parts names 'cross', but BertForSequence"):
        train.run(params, sweep(params)[0])


def test_what_only_text_has_is_refused(folder: Path) -> None:
    """Generate, export and import say why not."""
    from pipeline.adapters.joining import join

    params = params_for(folder, "bert", "seq_cls")
    calls: dict[str, Callable[[], Any]] = {
        "generate": lambda: generator_of(params, "best"),
        "export": lambda: export_prefixes(
            params, Wanted(["best"], folder / "x"), "peft", overwrite=False
        ),
        "import": lambda: join(params, folder / "x", "other"),
    }
    for name, call in calls.items():
        with pytest.raises(PipelineError, match=f"task.type: seq_cls has no `{name}`"):
            call()
