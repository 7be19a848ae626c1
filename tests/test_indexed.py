"""Models that choose among keys by an index are measured, looked into and gone on with as others.

Their index keys stand beside the keys, and are no states.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pipeline.config.evaluate import EvaluateParams
from pipeline.config.train import TrainParams
from pipeline.evaluation.generation import measure_examples
from pipeline.initialization.prefix_file import PrefixFile
from pipeline.inspection.found import Found
from pipeline.inspection.looking import Prefix, look_into
from pipeline.loss.causal import TargetLoss
from pipeline.models.for_variant import ForVariant
from pipeline.models.prefixed import prefixed_model
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, kv_prefix_from_tokens
from pipeline.preflight.saved_prefix import length_with_states
from pipeline.sweep.variants import Variant
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.loop import train_prefix
from tests.conftest import kv_of
from tests.hybrids import qwen3_next
from tests.prefix.indexed import build
from tests.prefix.test_refusals import git

IDS = [40, 9, 77, 200, 9, 133, 12, 50]
ROWS = [(9, 6), (6, 3), (7, 3)]
"""Tokens of examples, and of their inputs."""


def a_git() -> PreTrainedModel:
    """It attends to something else where padding stands before a row in its cache."""
    torch.manual_seed(0)
    return git().eval()


def started(model: PreTrainedModel, ids: list[int] = IDS) -> PrefixModel:
    prefixed = PrefixModel(model, PrefixConfig(len(ids))).eval()
    prefixed.load_kv_prefix(kv_prefix_from_tokens(model, ids))
    return prefixed


def examples() -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(1)
    ids = [torch.randint(4, 250, (length,), generator=draw).tolist() for length, _ in ROWS]
    return [{"input_ids": row, "target_start": at} for row, (_, at) in zip(ids, ROWS, strict=True)]


@pytest.mark.parametrize("prefixed", [started, PrefixModel], ids=["prefix", "bare"])
@pytest.mark.parametrize("name", ["deepseek_v32", "mistral_large4", "minimax_m3_vl_text", "git"])
def test_examples_together_are_those_of_each_alone(
    name: str,
    prefixed: Callable[[PreTrainedModel], PrefixModel],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = prefixed(a_git() if name == "git" else build(name))
    params, loss_of = EvaluateParams(splits=["test"], max_new_tokens=3), TargetLoss(model)

    def measured(rows: list[dict[str, Any]]) -> list[Any]:
        return measure_examples(model, tokenizer, Dataset.from_list(rows), params, "test", 400)

    rows, expected = examples(), 0.0
    for row, together in zip(rows, measured(rows), strict=True):
        (alone,) = measured([row])
        assert together.text == alone.text
        with torch.no_grad():
            loss = float(loss_of([row]))
        assert together.loss == pytest.approx(alone.loss, rel=1e-5)
        assert together.loss == pytest.approx(loss, rel=1e-5)
        expected += loss
    with torch.no_grad():
        assert float(loss_of(rows)) == pytest.approx(expected, rel=1e-5)


def test_a_prefix_with_keys_and_index_keys_in_unlike_layers_is_measured_as_trained() -> None:
    frozen = build("mistral_large4")
    model, ids = started(frozen), torch.tensor([IDS[::-1]])
    again = prefixed_model(frozen, kv_of(model))
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)


def looked_into(name: str, tokenizer: PreTrainedTokenizerFast) -> Found:
    model = started(build(name))
    prefix = Prefix("x", model, tokenizer, kv_of(model), "a text", None, "test", examples()[:1])
    return look_into(prefix, 200)


def test_index_keys_are_not_looked_at_as_states(tokenizer: PreTrainedTokenizerFast) -> None:
    tried = looked_into("deepseek_v32", tokenizer).tables["ablation"]
    assert {"tokens", "layers", "trained keys"} < set(tried["without"])
    assert "trained states" not in set(tried["without"])
    found = looked_into("minimax_m3_vl_text", tokenizer)
    assert "ablation" not in found.tables
    assert any(note.startswith("ablation: hidden virtual tokens") for note in found.notes)


@pytest.mark.parametrize("length", [5, 12])
def test_a_file_with_index_keys_starts_any_length(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frozen = build("deepseek_v32")
    kept = tmp_path / "data" / "kv_prefix" / "earlier" / "prefix.safetensors"
    kv = kv_of(started(frozen))
    kv.save(kept)
    assert length_with_states(kept) is None
    definition = PrefixFile(type="prefix_file", path="x")
    model = PrefixModel(frozen, PrefixConfig(length))
    start = definition.start(ForVariant(Variant(length, "earlier", 0), model))
    model.load_kv_prefix(start)
    index = start.states["0.indexer_keys"]
    assert len(index) == length
    assert torch.equal(index[0], kv.states["0.indexer_keys"][0])


def test_the_header_of_a_file_says_the_length_of_its_states(tmp_path: Path) -> None:
    kv = kv_prefix_from_tokens(qwen3_next(), IDS)
    for kinds, length in ((kv.kinds, 8), (("state",), 8), (("attention",), None)):
        kv.of_kinds(kinds).save(tmp_path / "kv")
        assert length_with_states(tmp_path / "kv") == length
    (tmp_path / "kv").write_text("no tensors")
    assert length_with_states(tmp_path / "kv") is None
    assert length_with_states(tmp_path) is None


def test_a_resumed_training_has_its_own_index_keys(tmp_path: Path) -> None:
    frozen, split = build("deepseek_v32"), Dataset.from_list(examples())
    params = TrainParams(epochs=None, max_steps=2, batch_size=2, eval_every_steps=1)

    def run(ids: list[int], folder: CheckpointFolder) -> KVPrefix:
        def log_step(step: int, _: Mapping[str, float]) -> None:
            """Nothing is logged."""

        result = train_prefix(started(frozen, ids), split, split, params, 3, log_step, folder)
        assert isinstance(result.prefix, KVPrefix)
        return result.prefix

    folder = CheckpointFolder(tmp_path / "x", "digest", 1)
    whole, again = run(IDS, folder), run(IDS[::-1], folder)
    assert whole.states
    for name, keys in whole.states.items():
        assert torch.equal(again.states[name], keys)
