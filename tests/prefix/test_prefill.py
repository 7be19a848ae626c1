"""A long text read in pieces has the keys and values of the whole, and no logits on the way."""

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from pipeline.prefix import PrefixError, kv_prefix_from_tokens, spaced_chunks
from pipeline.prefix.starts import prefill
from tests.prefix.architectures import SETTINGS, build
from tests.prefix.test_reach import dynamic

TOKENS = torch.randint(4, 260, (50,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SETTINGS)
def test_pieces_give_what_the_whole_gives(name: str) -> None:
    model = build(name)
    pieces = prefill.prefilled(model, TOKENS, piece=7)
    whole = prefill.prefilled(model, TOKENS)
    for one, other in zip(pieces.layers, whole.layers, strict=True):
        assert torch.allclose(one.keys, other.keys, atol=1e-5)
        assert torch.allclose(one.values, other.values, atol=1e-5)


def lengths_read(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Of each call of a model for a text in pieces of 20 its tokens and its logits' positions."""
    seen: list[tuple[int, int]] = []

    def note(_: object, __: object, given: dict[str, torch.Tensor], output: Any) -> None:
        seen.append((given["input_ids"].shape[1], output.logits.shape[1]))

    model.register_forward_hook(note, with_kwargs=True)
    prefill.prefilled(model, TOKENS, piece=20)
    return seen


def test_logits_are_of_one_position_a_piece() -> None:
    assert lengths_read(build("llama")) == [(20, 1), (20, 1), (10, 1)]


def test_what_is_read_is_written_where_it_stays() -> None:
    model = build("llama")
    places: list[int] = []

    def note(_: object, __: object, given: dict[str, Any], output: Any) -> None:
        places.extend(layer.keys.data_ptr() for layer in given["past_key_values"].layers)

    model.register_forward_hook(note, with_kwargs=True)
    kv = kv_prefix_from_tokens(model, TOKENS)
    prefill.prefilled(model, TOKENS.repeat(4), piece=20)
    assert len(places) == 2 + 2 * 10
    # A copy for each piece would lie elsewhere each time.
    assert places[2:4] * 10 == places[2:]
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in (*kv.keys, *kv.values))


def test_keys_that_heads_share_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    whole = prefill.prefilled(model, TOKENS)
    # Its 4 heads share 2 heads of keys.
    monkeypatch.delattr("transformers.integrations.sdpa_attention.repeat_kv")
    pieces = prefill.prefilled(model, TOKENS, piece=20)
    assert torch.allclose(pieces.layers[1].keys, whole.layers[1].keys, atol=1e-5)
    assert model.config._attn_implementation == "sdpa"


def test_a_text_beyond_the_context_is_read_by_chunks_or_refused() -> None:
    model = build("llama")
    text = TOKENS.repeat(6).tolist()
    with pytest.raises(
        PrefixError,
        match=r"300 virtual tokens are more than the model's context of 256 positions; use a "
        r"shorter prefix, or of a longer text chunks alone \(spaced_chunks\)",
    ):
        kv_prefix_from_tokens(model, text)
    chunks = spaced_chunks(text, 200, 8)
    assert len(kv_prefix_from_tokens(model, chunks)) == 200


def test_a_rotary_embedding_that_changes_with_the_length_reads_the_whole() -> None:
    assert lengths_read(dynamic(32)) == [(50, 1)]
    assert lengths_read(dynamic(64)) == [(20, 1), (20, 1), (10, 1)]


def test_a_prefix_of_pieces_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    whole = kv_prefix_from_tokens(model, TOKENS)
    monkeypatch.setattr(prefill, "_MASK", 9 * len(TOKENS))
    pieces = kv_prefix_from_tokens(model, TOKENS)
    assert pieces.metadata == whole.metadata
    for one, other in zip(
        (*pieces.keys, *pieces.values), (*whole.keys, *whole.values), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)
        assert one.is_contiguous()
