"""Attention Matching: fewer keys and values give queries what the whole text gave them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from pipeline.prefix import (
    KVPrefix,
    PrefixConfig,
    PrefixError,
    PrefixModel,
    attention_matching,
    kv_prefix_from_tokens,
    most_attended,
)
from pipeline.prefix.starts.matching_head import HeadToMatch
from pipeline.prefix.starts.positions import moved_back
from tests.conftest import tiny_model
from tests.prefix.architectures import SETTINGS, build
from tests.prefix.test_initializers import ROTARY, cached_at, equal

DRAW = torch.Generator().manual_seed(0)
TEXT = torch.randint(4, 260, (48,), generator=DRAW).tolist()
EXAMPLES = torch.randint(4, 260, (24, 12), generator=DRAW).tolist()
HELD_OUT = torch.randint(4, 260, (24, 12), generator=DRAW).tolist()


def prefixed(
    model: PreTrainedModel, kv: KVPrefix, layers: tuple[int, ...] | None = None
) -> PrefixModel:
    found = PrefixModel(model, PrefixConfig(num_virtual_tokens=len(kv), layers=layers)).eval()
    found.load_kv_prefix(kv)
    return found


def states_after(
    model: PreTrainedModel, kv: KVPrefix, layers: tuple[int, ...] | None = None
) -> torch.Tensor:
    """Last hidden states of held-out examples after a prefix."""
    held_out = torch.tensor(HELD_OUT)
    with torch.no_grad():
        after = prefixed(model, kv, layers)(input_ids=held_out, output_hidden_states=True)
    return after.hidden_states[-1]


def sharp_model(**changes: Any) -> PreTrainedModel:
    """A tiny Llama whose attention is no mere mean, as a random one's is."""
    model = tiny_model(**changes)
    for layer in model.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.weight.data.mul_(8)
        layer.self_attn.v_proj.weight.data.mul_(8)
    return model


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3", "gemma", "phi", "granite"])
def test_with_all_tokens_it_is_the_text(name: str) -> None:
    model = build(name)
    kv = kv_prefix_from_tokens(model, TEXT[:20])
    equal(attention_matching(prefixed(model, kv), kv, 20, EXAMPLES[:3]), kv, 1e-5)


@pytest.mark.parametrize("layers", [(1,), (2,), (0, 2)])
def test_a_text_in_some_layers_is_matched_there(layers: tuple[int, ...]) -> None:
    model = sharp_model(num_hidden_layers=3)
    text = kv_prefix_from_tokens(model, TEXT)
    kv = text.of_layers(layers)
    whole = prefixed(model, kv, layers)
    equal(attention_matching(whole, kv, len(kv), EXAMPLES[:3]), kv, 1e-5)
    matched = attention_matching(whole, kv, 12, EXAMPLES)
    assert matched.layers == layers
    expected = states_after(model, kv, layers)
    errors = [
        float((states_after(model, compact, layers) - expected).square().mean())
        for compact in (
            matched,
            attention_matching(prefixed(model, text), text, 12, EXAMPLES),
            kv[:12],
        )
    ]
    assert errors[0] < min(errors[1:])


@pytest.mark.parametrize("p", [4, 12])
def test_it_is_nearer_to_the_text_than_its_first_or_its_most_attended_tokens(p: int) -> None:
    model = sharp_model()
    kv = kv_prefix_from_tokens(model, TEXT)
    whole = prefixed(model, kv)
    expected = states_after(model, kv)
    errors = [
        float((states_after(model, compact) - expected).square().mean())
        for compact in (
            attention_matching(whole, kv, p, EXAMPLES),
            kv[:p],
            most_attended(whole, kv, p, EXAMPLES),
        )
    ]
    assert errors[0] < 0.8 * min(errors[1:])


def test_twice_is_the_same_and_shorter_is_no_slice() -> None:
    model = sharp_model()
    kv = kv_prefix_from_tokens(model, TEXT)
    first, again = (attention_matching(prefixed(model, kv), kv, 6, EXAMPLES) for _ in range(2))
    equal(first, again)
    assert first.shapes == kv.shapes
    longer = attention_matching(prefixed(model, kv), kv, 12, EXAMPLES)
    assert not torch.allclose(longer[:6].values[0], first.values[0], atol=1e-3)


def test_what_begins_a_text_stays_first() -> None:
    model = sharp_model()
    kv = kv_prefix_from_tokens(model, TEXT).beginning_text()
    matched = attention_matching(prefixed(model, kv), kv, 3, EXAMPLES[:4])
    assert matched.begins_text
    first = moved_back(model, kv, len(kv) - 3).keys
    for ours, of_text in zip(matched.keys, first, strict=True):
        torch.testing.assert_close(ours[:, 0], of_text[:, 0])


def test_few_queries_of_all_are_enough_to_ask_for() -> None:
    model = sharp_model()
    kv = kv_prefix_from_tokens(model, TEXT)
    whole = prefixed(model, kv)
    # More virtual tokens than queries: values stay near the text's own.
    few = attention_matching(whole, kv, 40, EXAMPLES, most_queries=16)
    expected = states_after(model, kv)
    error = float((states_after(model, few) - expected).square().mean())
    assert error < float((states_after(model, kv[:40]) - expected).square().mean())


@pytest.mark.parametrize("name", ROTARY)
def test_keys_move_back_exactly(name: str) -> None:
    model, ids = build(name), list(range(10, 19))
    equal(moved_back(model, cached_at(model, ids, 21), 21), kv_prefix_from_tokens(model, ids), 1e-4)


def head_to_match(n: int) -> HeadToMatch:
    draw = torch.Generator().manual_seed(n)
    keys, values, queries, own = (
        torch.randn(rows, 6, generator=draw, dtype=torch.float64) for rows in (30, 30, n, n)
    )
    return HeadToMatch(keys, values, queries, own[:, 0], own)


@pytest.mark.parametrize("n", [200, 5])
def test_values_are_the_least_squares(n: int) -> None:
    head = head_to_match(n)
    chosen = head.tokens(8)
    kept, start = head.keys[chosen], head.values[chosen]
    found = head.matched_values(kept, start, ridge=1e-9)
    least = head.error(kept, found)
    assert least < head.error(kept, start)
    for draw in range(4):
        step = 1e-2 * torch.randn(found.shape, generator=torch.Generator().manual_seed(draw))
        assert least <= head.error(kept, found + step) + 1e-9
    # Held more strongly, they stay nearer to what they were.
    held = head.matched_values(kept, start, ridge=10.0)
    assert float((held - start).norm()) < float((found - start).norm())
    assert head.tokens(8, first=True)[0] == 0


REFUSED = {
    "bloom": "computes its attention itself",
    "falcon (grouped)": "computes its attention itself",
    "mistral": "hides a part of the 48 tokens of the text",
    "gpt_oss": "(hides a part of the 48 tokens|a sink, a softcap or a bias)",
    "gemma2": "(hides a part of the 48 tokens|a sink, a softcap or a bias)",
    "deepseek_v3": "does not attend to the keys and values that it caches",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_matched_is_refused(name: str) -> None:
    model = build(name)
    kv = kv_prefix_from_tokens(model, TEXT)
    with pytest.raises(PrefixError, match=REFUSED[name]):
        attention_matching(prefixed(model, kv), kv, 6, EXAMPLES[:1])


def test_a_sink_is_refused_where_no_window_is_in_the_way() -> None:
    model = build("gpt_oss")
    kv = kv_prefix_from_tokens(model, TEXT[:2])
    with pytest.raises(PrefixError, match="a sink, a softcap or a bias"):
        attention_matching(prefixed(model, kv), kv, 2, [[5, 6]])


def test_more_than_keys_and_values_is_refused() -> None:
    kv = kv_prefix_from_tokens(tiny_model(), TEXT)
    with pytest.raises(PrefixError, match="only a decoder's keys and values can be matched"):
        attention_matching(
            prefixed(tiny_model(), kv), replace(kv, states={"0.conv": torch.ones(2)}), 6, EXAMPLES
        )


def test_more_tokens_than_there_are_or_no_example() -> None:
    model = tiny_model()
    kv = kv_prefix_from_tokens(model, TEXT)
    with pytest.raises(PrefixError, match="has 48 cached tokens, fewer than the 49 virtual"):
        attention_matching(prefixed(model, kv), kv, 49, EXAMPLES)
    with pytest.raises(PrefixError, match="no example whose queries could be matched"):
        attention_matching(prefixed(model, kv), kv, 6, [])


def test_names_are_of_the_table() -> None:
    assert REFUSED.keys() <= SETTINGS.keys()
