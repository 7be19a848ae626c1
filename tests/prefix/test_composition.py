"""Prefixes used together stand one after another, none of them having seen the others."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, PreTrainedModel

from pipeline.prefix import (
    KVPrefix,
    PrefixConfig,
    PrefixError,
    PrefixModel,
    kv_prefix_from_cache,
    kv_prefix_from_source_tokens,
    kv_prefix_from_tokens,
    random_kv_prefix,
)
from pipeline.prefix.architecture.key_positions import KeyPositions
from pipeline.prefix.architecture.shapes import kv_shapes
from pipeline.prefix.composition import composed, one_after_another
from pipeline.prefix.starts.positions import moved_to_front
from tests.conftest import kv_of, tiny_model
from tests.prefix import encoders, indexed, multimodal, recurrent
from tests.prefix.architectures import WINDOW, build
from tests.prefix.test_initializers import LEARNED, ROTARY, UNROTATED, equal

A, B, INPUT = [11, 12, 13], [21, 22, 23], [31, 32]
# No window hides anything yet, so that one mask serves every layer of the reference.
assert len(A) + len(B) + len(INPUT) <= WINDOW

LLAMA = tiny_model()


class _Unmoved(KeyPositions):
    """Leaves every key where it is."""

    def moved(self, kv: KVPrefix, old: Sequence[int], new: Sequence[int]) -> KVPrefix:
        return kv


UNMOVED = _Unmoved({}, {})


def of_tokens(model: PreTrainedModel, *texts: list[int]) -> list[KVPrefix]:
    return [kv_prefix_from_tokens(model, ids) for ids in texts]


def after_unseen(model: PreTrainedModel) -> torch.Tensor:
    """Logits of the input after A and B, by one pass whose mask hides A from B."""
    ids = torch.tensor([A + B + INPUT])
    n, p, b = ids.shape[1], len(A), len(B)
    allowed = torch.ones(n, n, dtype=torch.bool).tril()
    allowed[p : p + b, :p] = False
    mask = torch.zeros(n, n).masked_fill(~allowed, torch.finfo(torch.float32).min)
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            attention_mask=mask[None, None],
            position_ids=torch.arange(n)[None],
            use_cache=False,
        ).logits
    return logits[0, p + b :]


def after_composed(model: PreTrainedModel, parts: list[KVPrefix]) -> torch.Tensor:
    with torch.no_grad():
        together = PrefixModel.compose(model, parts)
        return together(input_ids=torch.tensor([INPUT])).logits[0]


def test_one_prefix_is_itself() -> None:
    (kv,) = of_tokens(LLAMA, A)
    assert composed(LLAMA, [kv]) is kv


@pytest.mark.parametrize("name", ROTARY)
def test_two_texts_that_cannot_see_each_other(name: str) -> None:
    model = build(name)
    expected = after_unseen(model)
    found = after_composed(model, of_tokens(model, A, B))
    scale = expected.abs().max()
    assert (found - expected).abs().max() < 1e-5 * scale
    # Left at its own positions the second would be another one.
    unmoved = one_after_another(of_tokens(model, A, B), positions=UNMOVED)
    assert (after_composed(model, [unmoved]) - expected).abs().max() > 5e-5 * scale


def masked_cache(model: PreTrainedModel, **positions: torch.Tensor) -> KVPrefix:
    """A's cache, and B's from a pass over both whose mask hides A, which takes up its places."""
    cache, mask = DynamicCache(), torch.tensor([[0] * len(A) + [1] * len(B)])
    with torch.no_grad():
        model(
            input_ids=torch.tensor([A + B]),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **positions,
        )
    (first,), both = of_tokens(model, A), kv_prefix_from_cache(cache, len(A) + len(B))
    keys, values = (
        tuple(torch.cat([x, y[:, len(A) :]], 1) for x, y in zip(own, later, strict=True))
        for own, later in ((first.keys, both.keys), (first.values, both.values))
    )
    return KVPrefix(keys, values)


@pytest.mark.parametrize("name", UNROTATED)
def test_keys_without_positions_are_put_one_after_another(name: str) -> None:
    model = build(name)
    parts = of_tokens(model, A, B)
    kv = composed(model, parts)
    equal(kv, masked_cache(model), 1e-5)
    assert torch.equal(kv.keys[1], torch.cat([part.keys[1] for part in parts], 1))


def test_positions_in_time_and_space() -> None:
    model = multimodal.build("qwen2_5_vl")
    places = torch.arange(len(A + B)).expand(3, 1, -1)
    equal(composed(model, of_tokens(model, A, B)), masked_cache(model, position_ids=places), 1e-4)


@pytest.mark.parametrize("name", LEARNED)
def test_learned_positions_are_refused(name: str) -> None:
    model = build(name)
    with pytest.raises(PrefixError, match="cannot be composed: their positions are part of"):
        composed(model, of_tokens(model, A, B))


class CountsItself(torch.nn.Module):
    """Learned positions that no argument tells: of a token's place in what is read."""

    def __init__(self, embedding: torch.nn.Module) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        learned = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
        return self.embedding(ids) + learned[: ids.shape[1]]


def test_a_model_that_counts_for_itself_is_refused() -> None:
    model = build("bloom")
    parts = of_tokens(model, A, B)
    model.set_input_embeddings(CountsItself(model.get_input_embeddings()))
    with pytest.raises(PrefixError, match="cannot be composed: their positions are part of"):
        composed(model, parts)


drawn = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(drawn, st.integers(0, 9))
def test_slices_are_the_parts_and_order_of_composing_does_not_matter(
    lengths: list[int], seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    parts = [random_kv_prefix(kv_shapes(LLAMA), p, 1.0, draw) for p in lengths]
    whole, start = composed(LLAMA, parts), 0
    assert len(whole) == sum(lengths)
    equal(whole[: lengths[0]], parts[0])
    for part in parts:
        own = whole[start : start + len(part)]
        places = list(range(start, start + len(part)))
        equal(moved_to_front(LLAMA, own, places), part, 1e-5)
        assert torch.equal(own.values[1], part.values[1])
        start += len(part)
    in_turn = parts[0]
    for part in parts[1:]:
        in_turn = composed(LLAMA, [in_turn, part])
    equal(in_turn, whole, 1e-5)


def test_saved_loaded_and_exported(tmp_path: Path) -> None:
    parts = [kv.beginning_text() for kv in of_tokens(LLAMA, A, B)]
    together = PrefixModel.compose(LLAMA, parts, names=["handbook", "glossary"])
    kv = kv_of(together)
    assert kv.begins_text
    listed = json.loads(kv.metadata["composed_of"])
    assert [(part["name"], part["tokens"]) for part in listed] == [("handbook", 3), ("glossary", 3)]
    assert [part["tokens_sha256"] for part in listed] == [
        p.metadata["tokens_sha256"] for p in parts
    ]
    assert listed[0]["sha256"] != listed[1]["sha256"]
    kv.save(tmp_path / "both.safetensors")
    again = KVPrefix.load(tmp_path / "both.safetensors")
    equal(again, kv)
    assert again.metadata == kv.metadata
    # A part of it is no longer composed of both.
    assert "composed_of" not in again[:4].metadata
    together.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([INPUT])
    with torch.no_grad():
        expected = together(input_ids=ids).logits
        read = PrefixModel.from_pretrained(LLAMA, tmp_path / "adapter")
        torch.testing.assert_close(read(input_ids=ids).logits, expected, rtol=0, atol=1e-5)
        peft = pytest.importorskip("peft")
        theirs = peft.PeftModel.from_pretrained(tiny_model(), str(tmp_path / "adapter"))
        torch.testing.assert_close(theirs(input_ids=ids).logits, expected, rtol=0, atol=1e-4)


def test_generation_goes_on_from_all_of_them() -> None:
    together = PrefixModel.compose(LLAMA, of_tokens(LLAMA, A, B)).eval()
    ids, written = torch.tensor([INPUT]), INPUT
    for _ in range(4):
        with torch.no_grad():
            logits = together(input_ids=torch.tensor([written])).logits
        written = [*written, int(logits[0, -1].argmax())]
    found = together.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=None,
    )
    assert found[0].tolist() == written


@pytest.mark.parametrize("name", list(indexed.CONFIGURATIONS)[:1])
def test_index_keys_move_with_the_keys(name: str) -> None:
    model = indexed.build(name)
    parts = of_tokens(model, A, B)
    kv = composed(model, parts)
    for key, state in kv.states.items():
        assert len(state) == len(A) + len(B)
        torch.testing.assert_close(state[: len(A)], parts[0].states[key])
    back = moved_to_front(model, kv[len(A) :], list(range(len(A), len(A) + len(B))))
    for key, state in parts[1].states.items():
        torch.testing.assert_close(back.states[key], state, rtol=0, atol=1e-4)


def test_what_cannot_stand_together_is_refused() -> None:
    first, second = of_tokens(LLAMA, A, B)
    other = kv_prefix_from_tokens(tiny_model(1, num_hidden_layers=3), A)
    with pytest.raises(PrefixError, match="there is no prefix to compose"):
        composed(LLAMA, [])
    with pytest.raises(PrefixError, match=r"a was made with llama and b with .*different models"):
        composed(LLAMA, [first, other], ["a", "b"])
    alike = kv_prefix_from_tokens(tiny_model(rope_parameters={"rope_theta": 5.0}), A)
    with pytest.raises(PrefixError, match="different models"):
        composed(LLAMA, [first, alike])
    with pytest.raises(PrefixError, match=r"different layers \(all; 0, 1\)"):
        composed(LLAMA, [first, second.of_layers((0, 1))])
    with pytest.raises(PrefixError, match=r"b begins a text.* and a does not"):
        composed(LLAMA, [first, second.beginning_text()], ["a", "b"])
    long = random_kv_prefix(kv_shapes(LLAMA), 300, 1.0, torch.Generator())
    with pytest.raises(PrefixError, match=r"600 virtual tokens together, .* context of 512"):
        composed(LLAMA, [long, long])
    second.modules["score.weight"] = torch.zeros(1)
    with pytest.raises(PrefixError, match=r"modules trained with it \(score\)"):
        composed(LLAMA, [first, second])


def test_layers_that_recur_and_encoders_are_refused() -> None:
    hybrid = recurrent.build("qwen3_next")
    kv = kv_prefix_from_tokens(hybrid, A)
    with pytest.raises(PrefixError, match="prefix 1 has states"):
        composed(hybrid, [kv, kv])
    alone = kv.of_kinds(("attention",))
    assert len(composed(hybrid, [alone, alone])) == 2 * len(A)
    t5 = encoders.build("t5")
    kv = kv_prefix_from_source_tokens(t5, A)
    with pytest.raises(PrefixError, match="of a model with an encoder"):
        composed(t5, [kv, kv])


def test_keys_move_in_half_precision_as_far_as_it_rounds() -> None:
    whole = tiny_model(hidden_size=128)
    half = tiny_model(hidden_size=128)
    # As a model is loaded: what it rotates by stays in float32.
    for parameter in half.parameters():
        parameter.data = parameter.data.bfloat16()
    parts = of_tokens(whole, list(range(4, 204)), B)
    moved, expected = (composed(model, parts).keys for model in (half, whole))
    for one, other in zip(moved, expected, strict=True):
        assert (one - other).norm() < 0.004 * other.norm()


def test_a_prefix_of_some_layers_alone() -> None:
    kv = composed(LLAMA, [part.of_layers((1,)) for part in of_tokens(LLAMA, A, B)])
    whole = composed(LLAMA, of_tokens(LLAMA, A, B))
    assert kv.layers == (1,)
    assert torch.equal(kv.keys[0], whole.keys[1])


def test_a_composition_can_be_trained_on() -> None:
    together = PrefixModel.compose(LLAMA, of_tokens(LLAMA, A, B))
    assert together.prefix_config == PrefixConfig(len(A) + len(B))
    together(input_ids=torch.tensor([INPUT])).logits.sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        together.load_kv_prefix(kv_of(together))
