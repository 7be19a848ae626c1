"""Every task type through the stages: encoder-decoders, and classifiers of texts and words."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.checks import check_files
from pipeline.config import Params
from pipeline.config.load import load_params
from pipeline.errors import PipelineError
from pipeline.inference.generator import Decoding, generator_of
from pipeline.prefix import KVPrefix
from pipeline.records import read_json, read_jsonl
from pipeline.stages import baselines, evaluate, fetch_data, fetch_model, kv_prefix, report, train
from pipeline.stages import tokenize as tokenize_stage
from pipeline.task_checks import check_examples_fit_context
from pipeline.variants import sweep
from tests.conftest import tiny_model, tiny_params, tiny_tokenizer
from tests.prefix.encoders import build

WORDS = ("red", "blue", "green", "one", "two", "three")
COLOURS = WORDS[:3]


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Words, each either a colour or a number, and which kind there is more of."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        words = draw.choices(WORDS, k=3)
        kinds = ["colour" if word in COLOURS else "number" for word in words]
        most = max(set(kinds), key=kinds.count)
        found.append({"text": " ".join(words), "kinds": kinds, "most": most})
    return found


TASKS: dict[str, dict[str, Any]] = {
    "seq2seq_lm": {"input_template": "{{ text }}", "target_template": "{{ most }}"},
    "seq_cls": {"input_template": "{{ text }}", "target_template": "{{ most }}"},
    "token_cls": {
        "input_template": "{{ text }}",
        "target_template": "{{ kinds | join(' ') }}",
    },
}
MODELS: dict[str, Callable[[], Any]] = {
    "t5": lambda: build("t5", vocab_size=260, pad_token_id=3, eos_token_id=2),
    "bart": lambda: build("bart", vocab_size=260, max_position_embeddings=128),
    "bert": lambda: build("bert", "ForMaskedLM", vocab_size=260, max_position_embeddings=128),
    "roberta": lambda: build("roberta", "ForMaskedLM", vocab_size=260, max_position_embeddings=128),
    "distilbert": lambda: build(
        "distilbert", "ForMaskedLM", vocab_size=260, max_position_embeddings=128
    ),
    "llama": tiny_model,
}


def params_for(folder: Path, model: str, kind: str, **changes: Any) -> Params:
    """Params for a task type, in a folder with its model and data."""
    from ruamel.yaml import YAML

    MODELS[model]().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    (folder / "inputs").mkdir()
    for seed, (split, count) in enumerate({"train": 24, "validation": 6, "test": 9}.items()):
        lines = [json.dumps(row) for row in rows(count, seed)]
        (folder / "inputs" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "inputs" / "corpus.txt").write_text(" ".join(WORDS) * 3)
    params = tiny_params(folder / "model")
    params["data"]["files"] = {
        split: f"inputs/{split}.jsonl" for split in ("train", "validation", "test")
    }
    params["task"] = {"type": kind, "max_length": 64, **TASKS[kind]}
    demonstrations = {"type": "demonstrations", "path": "data/raw/train.jsonl", "max_examples": 24}
    words = {"type": "vocabulary", "path": "data/model/config.json"}
    params["initializations"] |= {"demonstrations": demonstrations, "words": words}
    params["sweep"] = {
        "lengths": [4],
        "initializations": ["random", "corpus", "demonstrations", "words"],
        "seeds": [0],
        "train_sizes": [],
        "in_context": [],
    }
    for section, values in changes.items():
        params[section].update(values)
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(params, file)
    return load_params(folder / "params.yaml")


def run_stages(params: Params) -> None:
    """What `dvc repro` runs, in its order."""
    fetch_model.run(params)
    fetch_data.run(params)
    tokenize_stage.run(params)
    for name in params.initializations:
        kv_prefix.run(params, name)
    for variant in sweep(params):
        train.run(params, variant)
        evaluate.run(params, variant)
    for name in params.baselines:
        baselines.run(params, name)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # What MLflow shows is another test's matter, and costs more than these trainings.
    for module in (train, evaluate, baselines, report):
        for name in (
            *("log_variant", "log_baseline", "log_sweep", "mark_best", "deliver_pending"),
        ):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda *_: "run")
    monkeypatch.setattr(train, "TrainingRun", _Silent)
    return tmp_path


class _Silent:
    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> "_Silent":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, _: str) -> Any:
        return lambda *_: None


def metrics(folder: Path, kind: str, name: str) -> dict[str, float]:
    found = json.loads((folder / "data" / kind / name / "metrics.json").read_text())
    return dict(found["test"])


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("t5", "seq2seq_lm"),
        ("bart", "seq2seq_lm"),
        ("bert", "seq_cls"),
        ("distilbert", "seq_cls"),
        ("llama", "seq_cls"),
        ("bert", "token_cls"),
        ("roberta", "token_cls"),
    ],
)
def test_every_stage(folder: Path, model: str, kind: str) -> None:
    params = params_for(folder, model, kind)
    run_stages(params)
    for variant in sweep(params):
        found = metrics(folder, "evaluate", variant.name)
        assert found["loss"] > 0
        trained = json.loads((folder / "data/train" / variant.name / "metrics.json").read_text())
        assert trained["validation/best_loss"] <= trained["validation/initial_loss"]
        kv = KVPrefix.load(folder / "data/train" / variant.name / "prefix.safetensors")
        expected = {"seq2seq_lm": {"encoder", "decoder", "cross"}}.get(kind, {"encoder"})
        assert set(kv.parts or {"encoder"}) == expected
        assert bool(kv.modules) == (kind != "seq2seq_lm")
    report.run(params)
    text = (folder / "data/report/summary.md").read_text()
    assert ("exact match" if kind == "seq2seq_lm" else "accuracy") in text
    predictions = (folder / "data/evaluate/len4-corpus-seed0/predictions.jsonl").read_text()
    rows = [json.loads(line) for line in predictions.splitlines()]
    assert len(rows) == 9
    if kind == "token_cls":
        assert all(len(row["prediction"].split()) == 3 for row in rows)
    if kind == "seq_cls":
        assert {row["prediction"] for row in rows} <= {"colour", "number"}


def test_peft_s_part_alone(folder: Path) -> None:
    parts, only = {"parts": ["decoder"]}, {"initializations": ["corpus"]}
    params = params_for(folder, "t5", "seq2seq_lm", prefix=parts, sweep=only)
    run_stages(params)
    kv = KVPrefix.load(folder / "data/train/len4-corpus-seed0/prefix.safetensors")
    assert kv.parts == ("decoder", "decoder")
    # What it writes is what it was measured by.
    generator = generator_of(params, "len4-corpus-seed0")
    predictions = read_jsonl(folder / "data/evaluate/len4-corpus-seed0/predictions.jsonl")
    decoding = Decoding(params.evaluate.max_new_tokens)
    for row in predictions:
        assert generator(row["input"], decoding) == row["prediction"]
    assert len({row["prediction"] for row in predictions}) > 1


def test_the_frozen_model_is_the_same_and_the_run_repeats(folder: Path) -> None:
    only = {"initializations": ["random"]}
    params = params_for(folder, "bert", "seq_cls", sweep=only)
    run_stages(params)
    model = (folder / "data/model/model.safetensors").read_bytes()
    path = folder / "data/train/len4-random-seed0/prefix.safetensors"
    first, scored = path.read_bytes(), metrics(folder, "evaluate", "len4-random-seed0")
    run_stages(params)
    assert path.read_bytes() == first
    assert metrics(folder, "evaluate", "len4-random-seed0") == scored
    assert (folder / "data/model/model.safetensors").read_bytes() == model


def test_it_learns(folder: Path) -> None:
    """Words told apart by a prefix and a head on a random frozen encoder."""
    training = {"max_steps": 120, "learning_rate": 2e-2, "eval_every_steps": 40, "batch_size": 8}
    params = params_for(
        folder, "bert", "token_cls", train=training, sweep={"initializations": ["random"]}
    )
    run_stages(params)
    found = metrics(folder, "evaluate", "len4-random-seed0")
    assert found["accuracy"] > 0.9
    assert found["f1"] > 0.9


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


def test_parts_of_an_encoder_alone(folder: Path) -> None:
    params = params_for(folder, "bert", "seq_cls", prefix={"parts": ["encoder", "cross"]})
    with pytest.raises(PipelineError, match=r"prefix\.parts: .* which bert is not; use null"):
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
        check_examples_fit_context(params, config, statistics)
    fits = params.model_copy(update={"sweep": params.sweep.model_copy(update={"lengths": [4]})})
    check_examples_fit_context(fits, config, statistics)


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


@torch.no_grad()
def test_a_part_the_model_has_not(folder: Path) -> None:
    from pipeline.prefix import PrefixError

    params = params_for(folder, "bert", "seq_cls", prefix={"parts": ["cross"]})
    fetch_model.run(params)
    fetch_data.run(params)
    tokenize_stage.run(params)
    kv_prefix.run(params, "random")
    with pytest.raises(PrefixError, match="parts names 'cross', but BertForSequence"):
        train.run(params, sweep(params)[0])


def test_what_only_text_has_is_refused(folder: Path) -> None:
    """The report keeps this project's own file; generate, export and import say why not."""
    from pipeline.adapters.export import export_adapter
    from pipeline.adapters.joining import join

    params = params_for(folder, "bert", "seq_cls", sweep={"initializations": ["random"]})
    run_stages(params)
    report.run(params)
    best = folder / "data/report/best"
    assert KVPrefix.load(best / "prefix.safetensors").modules
    assert "no PEFT adapter" in (best / "README.md").read_text()
    calls: dict[str, Callable[[], Any]] = {
        "generate": lambda: generator_of(params, "best"),
        "export": lambda: export_adapter(params, "best", folder / "x", None, replace=False),
        "import": lambda: join(params, folder / "x", "other"),
    }
    for name, call in calls.items():
        with pytest.raises(PipelineError, match=f"task.type: seq_cls has no `{name}`"):
            call()
