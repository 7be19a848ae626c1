"""Where prefixes start: each initialisation's law."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast

from pipeline.prefix import KVPrefix, PrefixConfig, PrefixError, PrefixModel, random_kv_prefix
from pipeline.prefix.architecture.shapes import kv_shapes
from pipeline.prefix.starts.attended import attention_received, most_attended
from pipeline.prefix.starts.drawn import kv_prefix_from_words, zero_kv_prefix
from pipeline.prefix.starts.from_text import (
    kv_prefix_from_cache,
    kv_prefix_from_text,
    kv_prefix_from_tokens,
)
from pipeline.prefix.starts.positions import moved_to_front
from pipeline.prefix.starts.reshaped import spaced_chunks, stretched_kv_prefix
from tests.conftest import CORPUS, kv_of, tiny_model
from tests.prefix.architectures import build

WITHOUT_SHRINKING = settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
ROTARY = [
    *("llama", "gptj", "gpt_neox", "falcon (grouped)", "phi", "stablelm", "cohere", "glm4"),
    *("gemma3_text", "gpt_oss", "smollm3", "deepseek_v3"),
]
UNROTATED = ["bloom", "mpt"]
LEARNED = ["gpt2", "opt", "gpt_bigcode"]


def equal(left: KVPrefix, right: KVPrefix, tolerance: float = 0.0) -> None:
    for ours, theirs in zip(left.keys + left.values, right.keys + right.values, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


@WITHOUT_SHRINKING
@given(st.text(min_size=40, max_size=60), st.integers(1, 40), st.data())
def test_slices(text: str, longer: int, data: st.DataObject) -> None:
    from tests.conftest import tiny_tokenizer

    shorter = data.draw(st.integers(1, longer))
    model, tokenizer = tiny_model(), tiny_tokenizer()
    kv = kv_prefix_from_text(model, tokenizer, text, num_virtual_tokens=longer)
    equal(
        kv_prefix_from_text(model, tokenizer, text, num_virtual_tokens=shorter), kv[:shorter], 1e-6
    )


def test_an_existing_cache(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer.encode(CORPUS)[:20]
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True)
    equal(kv_prefix_from_cache(cache, 12), kv_prefix_from_tokens(model, ids)[:12], 1e-6)
    with pytest.raises(PrefixError, match="holds 20 tokens, fewer than the 21 virtual tokens"):
        kv_prefix_from_cache(cache, 21)


def test_random_and_zero_starts(model: PreTrainedModel) -> None:
    shapes = kv_shapes(model)
    first, again, other = (
        random_kv_prefix(shapes, 500, 0.5, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    equal(first, again)
    assert not torch.equal(first.keys[0], other.keys[0])
    assert float(first.keys[0].std()) == pytest.approx(0.5, rel=0.05)
    zero = zero_kv_prefix(shapes, 3)
    assert not any(bool(tensor.any()) for tensor in zero.keys + zero.values)


def test_words_repeat_to_the_length(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    draw = torch.Generator().manual_seed(0)
    given_words = kv_prefix_from_words(model, tokenizer, ["ab", "c"], 10, draw)
    ids = (tokenizer.encode("ab c") * 3)[:10]
    equal(given_words, kv_prefix_from_tokens(model, ids))
    drawn = kv_prefix_from_words(model, tokenizer, None, 6, torch.Generator().manual_seed(1))
    same = kv_prefix_from_words(model, tokenizer, None, 6, torch.Generator().manual_seed(1))
    equal(drawn, same)
    with pytest.raises(PrefixError, match="words: have no tokens"):
        kv_prefix_from_words(model, tokenizer, [""], 6, draw)


@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 300))
def test_chunks_are_spread_whole_and_nested(length: int, chunk: int, most: int) -> None:
    tokens = list(range(length))
    spread = spaced_chunks(tokens, most, chunk)
    assert len(set(spread)) == len(spread) <= most
    assert spaced_chunks(tokens, most // 2, chunk) == spread[: most // 2]
    kept = length - length % chunk
    every = spaced_chunks(tokens, length, chunk)
    # What is no whole chunk comes last.
    assert sorted(every[:kept]) == tokens[:kept]
    assert every[kept:] == tokens[kept:]
    # With half of all chunks taken, no two neighbours are both left out.
    taken = {token // chunk for token in spaced_chunks(tokens, (kept + 1) // 2 + chunk, chunk)}
    missing = [i for i in range(kept // chunk) if i not in taken]
    assert all(b - a > 1 for a, b in itertools.pairwise(missing))


def test_a_trained_prefix_at_another_length(model: PreTrainedModel) -> None:
    kv = random_kv_prefix(kv_shapes(model), 4, 1.0, torch.Generator().manual_seed(0))
    equal(stretched_kv_prefix(kv, 3), kv[:3])
    doubled = stretched_kv_prefix(kv, 8)
    assert torch.equal(doubled.keys[0][:, ::2], kv.keys[0])
    assert torch.equal(doubled.values[1][:, 1::2], kv.values[1])


def cached_at(model: PreTrainedModel, ids: list[int], start: int) -> KVPrefix:
    """The KV cache of a text that begins at a later position."""
    cache = DynamicCache()
    positions = torch.arange(start, start + len(ids))[None]
    with torch.no_grad():
        model(
            input_ids=torch.tensor([ids]),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
    return kv_prefix_from_cache(cache, len(ids))


@pytest.mark.parametrize("name", ROTARY)
@pytest.mark.parametrize("start", [1, 37])
def test_rotary_keys_move_exactly(name: str, start: int) -> None:
    model, ids = build(name), list(range(10, 19))
    moved = moved_to_front(
        model, cached_at(model, ids, start), list(range(start, start + len(ids)))
    )
    equal(moved, kv_prefix_from_tokens(model, ids), 1e-4)


@pytest.mark.parametrize("name", [*UNROTATED, *LEARNED])
def test_other_keys_stay(name: str) -> None:
    model = build(name)
    kv = kv_prefix_from_tokens(model, list(range(10, 19)))
    equal(moved_to_front(model, kv, list(range(5, 14))), kv)


def whole_corpus(model: PreTrainedModel, ids: list[int]) -> PrefixModel:
    whole = PrefixModel(model, PrefixConfig(num_virtual_tokens=len(ids))).eval()
    whole.load_kv_prefix(kv_prefix_from_tokens(model, ids))
    return whole


def test_most_attended_tokens_are_chosen_in_order() -> None:
    model = tiny_model()
    whole = whole_corpus(model, list(range(20, 50)))
    inputs = [[5, 6, 7], [8, 9, 10, 11]]
    received = attention_received(whole, inputs)
    assert received.shape == (30,)
    assert 0 < float(received.sum()) < 1
    kv = most_attended(whole, kv_of(whole), 6, inputs)
    chosen = received.topk(6).indices.sort().values.tolist()
    for place, token in enumerate(chosen):
        expected = kv_of(whole).values[1][:, token]
        torch.testing.assert_close(kv.values[1][:, place], expected)
    with pytest.raises(PrefixError, match="fewer than the 31 virtual tokens"):
        most_attended(whole, kv_of(whole), 31, inputs)


def test_all_tokens_chosen_is_the_corpus_itself() -> None:
    model = tiny_model()
    whole = whole_corpus(model, list(range(20, 32)))
    equal(most_attended(whole, kv_of(whole), 12, [[5, 6]]), kv_of(whole), 1e-5)


def test_attention_is_measured_on_the_model_as_it_was(model: Any) -> None:
    before = model.config._attn_implementation
    attention_received(whole_corpus(model, [5, 6, 7]), [[8, 9]])
    assert model.config._attn_implementation == before
