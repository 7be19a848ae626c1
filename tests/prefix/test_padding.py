"""Models that count the padding before a row as its tokens are measured as each example alone."""

from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from transformers import PreTrainedModel

from pipeline.config.evaluate import EvaluateParams
from pipeline.evaluation.generation import measure_examples
from pipeline.evaluation.outcome import Outcome
from pipeline.loss.causal import TargetLoss
from pipeline.prefix import PrefixError, PrefixModel
from pipeline.prefix.architecture.one_pass import in_one_pass
from pipeline.prefix.architecture.padding import counts_padding
from tests.conftest import tiny_tokenizer
from tests.prefix.architectures import SETTINGS, build
from tests.prefix.encoders import BART
from tests.prefix.test_reach import P, alone, examples, llama4, prefixed

LENGTHS = [9, 20, 25, 13]


def mbart() -> PreTrainedModel:
    """A decoder made for an encoder, used alone; it takes no `position_ids`."""
    torch.manual_seed(0)
    settings = {**BART, "vocab_size": 260, "is_decoder": True, "is_encoder_decoder": False}
    return transformers.MBartForCausalLM(transformers.MBartConfig(**settings, init_std=0.3)).eval()


def scaled() -> PreTrainedModel:
    return llama4(attn_temperature_tuning=True, floor_scale=P + 4, attention_chunk_size=64)


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("make", [mbart, scaled])
@torch.no_grad()
def test_an_example_in_a_batch_is_the_example_alone(make: Any, bare: bool) -> None:
    frozen = make()
    model = PrefixModel(frozen).eval() if bare else prefixed(frozen)
    rows = [{**row, "target_start": len(row["input_ids"]) - 3} for row in examples(LENGTHS)]
    expected = [alone(model, row) for row in rows]
    assert float(TargetLoss(model)(rows)) == pytest.approx(sum(expected), rel=1e-5)
    together = _measured(model, rows)
    assert [outcome.loss for outcome in together] == pytest.approx(expected, rel=1e-5)
    singly = [_measured(model, [row])[0].text for row in rows]
    assert [outcome.text for outcome in together] == singly


def _measured(model: PrefixModel, rows: list[dict[str, Any]]) -> list[Outcome]:
    params = EvaluateParams(max_new_tokens=4, splits=["test"])
    split = Dataset.from_list(rows)
    return measure_examples(model, tiny_tokenizer(), split, params, "test", 4096)


@torch.no_grad()
def test_rows_behind_such_padding_are_computed_without_it() -> None:
    model = prefixed(mbart())
    ids = torch.arange(30, 38).view(2, 4)
    padded = torch.nn.functional.pad(ids, (2, 0))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]] * 2)
    left = model(input_ids=padded, attention_mask=mask).logits[:, 2:]
    torch.testing.assert_close(left, model(input_ids=ids).logits)
    with in_one_pass(), pytest.raises(PrefixError, match="MBartForCausalLM counts the padding bef"):
        model(input_ids=padded, attention_mask=mask)
    right = model(input_ids=padded.roll(-2, 1), attention_mask=mask.flip(1)).logits[:, :4]
    torch.testing.assert_close(right, model(input_ids=ids).logits)


def test_what_goes_by_distance_or_is_told_positions_counts_none() -> None:
    assert counts_padding(mbart())
    names = [name for name in SETTINGS if name in ("bloom", "mpt", "gpt2", "falcon (ALiBi)")]
    assert not any(counts_padding(build(name)) for name in names)


@torch.no_grad()
def test_a_cache_that_was_cropped_to_nothing_takes_rows_that_are_padded_otherwise() -> None:
    """Before a window padding stands before the prefix, which the first rows had without any."""
    model = prefixed(build("mistral"))
    ids = torch.arange(30, 44).view(2, 7)
    mask = torch.tensor([[1] * 7, [0] * 3 + [1] * 4])
    cache: Any = model.new_cache()
    model(input_ids=ids, past_key_values=cache, use_cache=True)
    cache.crop(-7)
    again = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True).logits
    expected = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(again[1, 3:], expected[1, 3:], rtol=0, atol=1e-5)
