"""Every task type through the stages: encoder-decoders, and classifiers of texts and words."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.errors import PipelineError
from pipeline.inference.generator import Decoding, generator_of
from pipeline.prefix import KVPrefix
from pipeline.preflight.files import check_files
from pipeline.stages import baselines, evaluate, inspect, report, train
from pipeline.storage.records import read_jsonl
from pipeline.sweep.grid import sweep
from tests.task_runs import params_for, run_stages

pytestmark = pytest.mark.slow


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


EVERY_START = ("random", "corpus", "demonstrations", "words")


@pytest.mark.parametrize(
    ("model", "kind", "starts"),
    [
        ("t5", "seq2seq_lm", EVERY_START),
        ("bart", "seq2seq_lm", ("corpus",)),
        ("blenderbot-small", "seq2seq_lm", ("corpus", "words")),
        ("bert", "seq_cls", EVERY_START),
        ("distilbert", "seq_cls", ("corpus",)),
        ("llama", "seq_cls", ("corpus",)),
        ("roberta", "token_cls", ("corpus",)),
    ],
)
def test_every_stage(folder: Path, model: str, kind: str, starts: tuple[str, ...]) -> None:
    params = params_for(folder, model, kind, sweep={"initializations": list(starts)})
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
    inspect.run(params)
    seen = pd.read_csv(folder / "data/inspection/best/attention_of_layers.csv")
    assert (seen["prefix"] + seen["input"]).round(4).eq(1).all()
    looked_at = json.loads((folder / "data/inspection/best/facts.json").read_text())
    assert looked_at["layers"] == len(kv.keys)
    rows = read_jsonl(folder / "data/evaluate/len4-corpus-seed0/predictions.jsonl")
    assert [row["split"] for row in rows] == ["test"] * 9 + ["validation"] * 6
    if kind == "token_cls":
        assert all(len(row["prediction"].split()) == 3 for row in rows)
    if kind == "seq_cls":
        assert {row["prediction"] for row in rows} <= {"colour", "number"}
    if starts == EVERY_START:
        report.run(params)
        text = (folder / "data/report/summary.md").read_text()
        assert ("exact match" if kind == "seq2seq_lm" else "accuracy") in text
        best = folder / "data/report/best"
        assert bool(KVPrefix.load(best / "prefix.safetensors").modules) == (kind == "seq_cls")
        assert "no PEFT adapter" in (best / "README.md").read_text()


@pytest.mark.parametrize("model", ["qwen2_5_vl", "gemma3"])
def test_text_with_a_multimodal_checkpoint(folder: Path, model: str) -> None:
    """Loaded whole, in packed rows, with windows that hide what is far and without."""
    params = params_for(folder, model, "causal_lm", sweep={"initializations": ["corpus"]})
    task = params.task.model_copy(update={"max_length": 253})
    with pytest.raises(PipelineError, match="a prefix of 4 are more than the model's context of 2"):
        check_files(params.model_copy(update={"task": task}))
    run_stages(params)
    assert metrics(folder, "evaluate", "len4-corpus-seed0")["loss"] > 0
    trained = json.loads((folder / "data/train/len4-corpus-seed0/metrics.json").read_text())
    assert trained["validation/best_loss"] < trained["validation/initial_loss"]
    generator = generator_of(params, "len4-corpus-seed0")
    assert generator.model.frozen_model.config.vision_config is not None
    assert generator.model.why_not_packed(decoding=True, tokens=40) is None
    decoding = Decoding(params.evaluate.max_new_tokens)
    for row in read_jsonl(folder / "data/evaluate/len4-corpus-seed0/predictions.jsonl"):
        assert generator(row["input"], decoding) == row["prediction"]
    if model == "qwen2_5_vl":
        inspect.run(params)
        report.run(params)
        assert (folder / "data/report/best/adapter_config.json").exists()


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
