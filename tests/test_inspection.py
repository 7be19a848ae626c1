"""Looking into a prefix: its way from the start, its nearest words, and what it is worth."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from pipeline.errors import PipelineError
from pipeline.inspection.words import nearest_words, words_of
from pipeline.prefix import PrefixConfig, PrefixModel, kv_prefix_from_tokens
from tests.conftest import kv_of
from tests.prefix import encoders
from tests.prefix.architectures import build

IDS = [40, 9, 77, 200, 9, 133]


@pytest.mark.parametrize(
    "name",
    ["llama", "gpt2", "opt", "bloom", "mpt", "gemma3_text", "qwen3", "deepseek_v3", "gpt_neox"],
)
def test_a_text_gives_back_its_own_words(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = build(name)
    kv = kv_prefix_from_tokens(model, IDS)
    before = model(input_ids=torch.tensor([IDS], device=model.device)).logits
    found = nearest_words(model, tokenizer, kv, 3)
    assert torch.equal(model(input_ids=torch.tensor([IDS], device=model.device)).logits, before)
    first = found[found["rank"] == 1]
    assert list(first["token"]) == list(range(len(IDS)))
    assert list(first["id"]) == IDS
    assert list(first["word"]) == words_of(tokenizer, IDS)
    for column in ("cosine", "key_cosine", "value_cosine"):
        assert first[column].min() > 1 - 1e-5
    others = found[found["rank"] > 1]
    assert others["cosine"].max() < 1 - 1e-3
    assert (found["typical"] < 0.9).all()


@pytest.mark.parametrize("name", ["t5", "bart", "bert", "roberta", "modernbert"])
def test_so_does_what_an_encoder_reads(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = encoders.build(name)
    ids = [token % 90 + 5 for token in IDS]
    kv = kv_prefix_from_tokens(model, ids)
    found = nearest_words(model, tokenizer, kv, 1)
    assert list(found["id"]) == ids
    assert found["cosine"].min() > 1 - 1e-5


def test_one_virtual_token(tokenizer: PreTrainedTokenizerFast) -> None:
    model = build("gpt2")
    assert list(nearest_words(model, tokenizer, kv_prefix_from_tokens(model, [77]), 1)["id"]) == [
        77
    ]


def test_no_first_layer_no_words(tokenizer: PreTrainedTokenizerFast) -> None:
    model = PrefixModel(build("llama"), PrefixConfig(num_virtual_tokens=3, layers=(1,)))
    with pytest.raises(PipelineError, match="first layer that reads inputs has no prefix"):
        nearest_words(model.frozen_model, tokenizer, kv_of(model), 1)
