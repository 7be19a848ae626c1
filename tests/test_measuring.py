"""What is measured is what the frozen model's own forward and generate give, one row at a time."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from datasets import Dataset
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from pipeline.config.evaluate import EvaluateParams
from pipeline.config.train import TrainParams
from pipeline.evaluation import measure
from pipeline.evaluation.generation import measure_examples
from pipeline.loss.causal import TargetLoss
from pipeline.prefix import PrefixConfig, PrefixModel, kv_prefix_from_text
from pipeline.training.compilation import missing_compiler
from pipeline.training.loop import train_prefix
from pipeline.training.validation import target_loss_of
from tests.conftest import CORPUS, kv_of, tiny_model
from tests.hybrids import qwen3_next

P = 5


def examples(count: int = 7) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(1)
    rows = []
    for index in range(count):
        ids = torch.randint(4, 260, (6 + 5 * index,), generator=draw).tolist()
        rows.append({"id": str(index), "input_ids": ids, "target_start": 3 + 3 * index})
    return rows


def bloom() -> PreTrainedModel:
    """An architecture that the packed path does not serve (ALiBi)."""
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=260, hidden_size=32, n_layer=2, n_head=4, eos_token_id=2)
    return BloomForCausalLM(config).eval()


def with_kernel() -> PreTrainedModel:
    """Heads of a size that the CPU's own attention kernel takes."""
    return tiny_model(head_dim=16)


def windowed() -> PreTrainedModel:
    """A window that some examples stay within, which are packed, and others do not."""
    torch.manual_seed(0)
    settings = tiny_model(head_dim=16).config.to_dict()
    return MistralForCausalLM(MistralConfig(**{**settings, "sliding_window": 24})).eval()


@pytest.fixture(
    params=[tiny_model, with_kernel, bloom, windowed, qwen3_next],
    ids=lambda make: make.__name__,
)
def architecture(request: pytest.FixtureRequest) -> PreTrainedModel:
    model: PreTrainedModel = request.param()
    return model


@pytest.fixture(params=["bare", "prefix"])
def measured(
    request: pytest.FixtureRequest,
    architecture: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
) -> Any:
    if request.param == "bare":
        return PrefixModel(architecture).eval()
    kv = kv_prefix_from_text(architecture, tokenizer, CORPUS, num_virtual_tokens=P)
    model = PrefixModel(architecture, PrefixConfig(num_virtual_tokens=P)).eval()
    model.load_kv_prefix(kv)
    return model


def loss_alone(model: Any, row: dict[str, Any]) -> float:
    ids = torch.tensor([row["input_ids"]])
    logits = model(input_ids=ids).logits[0, :-1].double()
    losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    return float(losses[row["target_start"] - 1 :].sum())


@torch.no_grad()
def test_batched_losses_are_those_of_each_row_alone(measured: Any) -> None:
    rows = examples()
    expected = [loss_alone(measured, row) for row in rows]
    loss_of = TargetLoss(measured)
    found = sum(float(loss_of(part)) for part in loss_of.parts(rows))
    assert found == pytest.approx(sum(expected), rel=1e-5)
    targets = sum(len(row["input_ids"]) - row["target_start"] for row in rows)
    mean = target_loss_of(measured, Dataset.from_list(rows), max_tokens=60)
    assert mean == pytest.approx(sum(expected) / targets, rel=1e-5)


@torch.no_grad()
def test_generation_and_its_losses_are_those_of_each_row_alone(
    measured: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = examples()
    params = EvaluateParams(splits=["test"], max_new_tokens=9)
    # A frequent token ends texts, so that rows leave their batch at different steps.
    ending = measured.generate(
        torch.tensor([rows[0]["input_ids"][:3]]), max_new_tokens=4, do_sample=False, pad_token_id=3
    )[0, -1]
    measured.frozen_model.generation_config.eos_token_id = int(ending)
    outcomes = measure_examples(measured, tokenizer, Dataset.from_list(rows), params, "test", 120)
    for row, outcome in zip(rows, outcomes, strict=True):
        assert outcome.loss == pytest.approx(loss_alone(measured, row), rel=1e-5)
        shown = torch.tensor([row["input_ids"][: row["target_start"]]])
        ids = measured.generate(shown, max_new_tokens=9, do_sample=False, pad_token_id=3)
        expected = [int(ending), int(tokenizer.eos_token_id or 0)]
        text: list[int] = []
        for token in ids[0, shown.shape[1] :].tolist():
            if token in expected:
                break
            text.append(token)
        assert outcome.text == tokenizer.decode(text, skip_special_tokens=True).strip()


def test_merged_matrices_are_timed_on_one_batch_of_a_split(
    measured: Any, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they say was decoded before, with the matrices beside the weights."""
    sizes: list[int] = []
    figures: dict[str, float] = {}

    def counted(*of_batch: Any) -> Any:
        sizes.append(len(of_batch[2]))
        return measure_examples(*of_batch)

    split = Dataset.from_list(examples())
    monkeypatch.setattr(measure, "load_split", lambda *_: split)
    monkeypatch.setattr(measure, "task_of", lambda _: mock.Mock(end=None))
    monkeypatch.setattr(measure, "record_timing", lambda _, **found: figures.update(found))
    monkeypatch.setattr(measure, "measure_examples", counted)
    params = EvaluateParams(splits=["test"], max_new_tokens=4)
    measure.time_merged(measured, tokenizer, params, "lora-seed0", 60)
    assert len(sizes) == 1
    assert 0 < sizes[0] < len(split)
    assert all(value > 0 for value in figures.values())
    assert len(figures) == 2


@pytest.mark.parametrize("make", [tiny_model, with_kernel])
def test_packed_gradients_are_those_of_padded_batches(
    tokenizer: PreTrainedTokenizerFast,
    make: Callable[[], PreTrainedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = PrefixModel(make(), PrefixConfig(num_virtual_tokens=P))
    kv = kv_prefix_from_text(model.frozen_model, tokenizer, CORPUS, num_virtual_tokens=P)
    model.load_kv_prefix(kv)
    assert model.why_not_packed() is None
    gradients = []
    for packed in (True, False):
        loss_of = TargetLoss(model)
        monkeypatch.setattr(loss_of, "packs", lambda _, packed=packed: packed)
        model.zero_grad()
        for part in loss_of.parts(examples()):
            loss_of(part).backward()
        (parameter,) = [p for p in model.parameters() if p.requires_grad]
        assert parameter.grad is not None
        gradients.append(parameter.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_only_the_prefix_takes_gradients(tokenizer: PreTrainedTokenizerFast) -> None:
    frozen = tiny_model()
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    model = PrefixModel(frozen, PrefixConfig(num_virtual_tokens=P))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    start = kv_of(model)
    for _ in range(3):
        optimizer.zero_grad()
        TargetLoss(model)(examples()).backward()
        optimizer.step()
    assert not torch.equal(kv_of(model).keys[0], start.keys[0])
    after = frozen.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.slow
@pytest.mark.skipif(missing_compiler() is not None, reason=str(missing_compiler()))
def test_compiled_layers_train_alike(tokenizer: PreTrainedTokenizerFast) -> None:
    """Losses and gradients of compiled training steps are the eager ones; validation is eager."""
    histories = []
    for compiled in (False, True):
        model = PrefixModel(tiny_model(), PrefixConfig(num_virtual_tokens=P))
        kv = kv_prefix_from_text(model.frozen_model, tokenizer, CORPUS, num_virtual_tokens=P)
        model.load_kv_prefix(kv)
        params = TrainParams(epochs=None, max_steps=4, batch_size=2, compile=compiled)
        data = Dataset.from_list(examples())
        result = train_prefix(model, data, data, params, 0, lambda step, metrics: None)
        histories.append([row.get("train/loss", 0.0) for row in result.history])
        # What comes next in this process finds the layers as they were.
        assert all(module._compiled_call_impl is None for module in model.modules())
    assert histories[1] == pytest.approx(histories[0], rel=1e-4)
    assert histories[0][1:] != histories[0][:-1]
