"""What inputs attend to, and what hiding virtual tokens does, on every architecture."""

import pytest
import torch

from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel
from pipeline.prefix.attention import attention_by_place
from pipeline.prefix.errors import PrefixError
from tests.conftest import kv_of
from tests.prefix import encoders
from tests.prefix.architectures import SETTINGS, build

P, TOKENS = 5, 7


def ids(rows: int = 1, tokens: int = TOKENS) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(10, 100, (rows, tokens), generator=draw)


def drawn(model: PrefixModel) -> PrefixModel:
    """Its prefix random, of the size of real keys and values."""
    torch.manual_seed(2)
    kv = kv_of(model)
    for tensor in (*kv.keys, *kv.values):
        tensor.normal_()
    model.load_kv_prefix(kv)
    return model.eval()


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_attention_is_what_eager_shows_after_a_cache(name: str) -> None:
    frozen = build(name)
    model = drawn(PrefixModel(frozen, PrefixConfig(num_virtual_tokens=P)))
    batch = ids().to(frozen.device)
    found = attention_by_place(model, [{"input_ids": batch}])
    assert found.places == [(None, layer) for layer in range(len(kv_of(model).keys))]
    assert bool((found.tokens >= 0).all())
    assert bool((found.tokens <= 1).all())
    whole = found.tokens.sum(1) + found.input
    if name == "gpt_oss":
        assert bool((whole < 1).all())
    else:
        torch.testing.assert_close(whole, torch.ones_like(whole), atol=1e-5, rtol=0)
    if getattr(frozen.config, "sliding_window", None) or "sliding" in name:
        return
    # transformers alone: its own cache, filled with the prefix.
    frozen.set_attn_implementation("eager")
    shown = frozen(
        input_ids=batch,
        attention_mask=torch.ones(1, P + TOKENS, dtype=torch.long, device=frozen.device),
        past_key_values=kv_of(model).to_cache(),
        output_attentions=True,
    ).attentions
    for layer, weights in enumerate(shown):
        expected = weights[0, :, :, :P].double().mean((0, 1))
        torch.testing.assert_close(found.tokens[layer], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_a_hidden_token_is_one_of_a_key_that_no_query_meets(name: str) -> None:
    """The logits are those of any other keys and values in the hidden tokens' place."""
    frozen = build(name)
    model = drawn(PrefixModel(frozen, PrefixConfig(num_virtual_tokens=P)))
    batch = ids(2).to(frozen.device)
    mask = torch.ones_like(batch)
    mask[1, :3] = 0
    call = {"input_ids": batch, "attention_mask": mask, "use_cache": False}
    whole = model(**call).logits[mask.bool()]
    with model.without([]):
        torch.testing.assert_close(model(**call).logits[mask.bool()], whole, atol=1e-5, rtol=1e-5)
    with model.without([1, 3], places=[1]):
        less = model(**call).logits[mask.bool()]
    assert float((less - whole).abs().max()) > 1e-4
    kv = kv_of(model)
    kv.keys[1][:, [1, 3]] += 3
    kv.values[1][:, [1, 3]] += 3
    model.load_kv_prefix(kv)
    with model.without([1, 3], places=[1]):
        again = model(**call).logits[mask.bool()]
    torch.testing.assert_close(again, less, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_without_any_token_an_input_still_stands_after_them() -> None:
    frozen = build("llama", {"head_dim": 16})
    model = drawn(PrefixModel(frozen, PrefixConfig(num_virtual_tokens=P)))
    batch = ids().to(frozen.device)
    with model.without():
        hidden = model(input_ids=batch, use_cache=False).logits
        assert model.why_not_packed(decoding=True) is not None
        packed = model.packed_logits(batch[0], [TOKENS], torch.arange(TOKENS))
    torch.testing.assert_close(packed, hidden[0], atol=1e-5, rtol=1e-5)
    with model.without([0, 2], places=[1]):
        padded = model(input_ids=batch, use_cache=False).logits
        packed = model.packed_logits(batch[0], [TOKENS], torch.arange(TOKENS))
    torch.testing.assert_close(packed, padded[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(packed, hidden[0], atol=1e-3)
    positions = torch.arange(P, P + TOKENS, device=frozen.device)[None]
    torch.testing.assert_close(hidden, frozen(input_ids=batch, position_ids=positions).logits)
    assert model.why_not_packed(decoding=True) is None


@pytest.mark.parametrize(("given", "said"), [({"tokens": [5]}, "token 5"), ({"places": [2]}, "2")])
def test_what_a_prefix_has_not_cannot_be_hidden(given: dict[str, list[int]], said: str) -> None:
    model = PrefixModel(build("llama"), PrefixConfig(num_virtual_tokens=P))
    with pytest.raises(PrefixError, match=said), model.without(**given):
        pass


def test_a_layer_is_found_among_the_chosen_ones() -> None:
    model = drawn(PrefixModel(build("llama"), PrefixConfig(num_virtual_tokens=P, layers=(1,))))
    batch = ids().to(model.device)
    found = attention_by_place(model, [{"input_ids": batch}])
    assert found.places == [(None, 1)]
    with torch.no_grad(), model.without(places=[0]):
        hidden = model(input_ids=batch, use_cache=False).logits
    kv = kv_of(model)
    model.load_kv_prefix(KVPrefix(kv.keys, tuple(v + 9 for v in kv.values), layers=(1,)))
    with torch.no_grad(), model.without(places=[0]):
        torch.testing.assert_close(model(input_ids=batch, use_cache=False).logits, hidden)


WITH_ENCODERS = (*encoders.ENCODER_DECODERS, *encoders.ENCODERS)
CASES = [
    *((name, False) for name in WITH_ENCODERS if name not in encoders.REFUSED),
    *((name, True) for name in ("t5", "bart", "modernbert")),
]


@pytest.mark.parametrize(("name", "eager"), CASES)
@torch.no_grad()
def test_every_part_of_a_model_with_an_encoder(name: str, eager: bool) -> None:
    frozen = encoders.build(name)
    if eager:
        frozen.set_attn_implementation("eager")
    model = drawn(PrefixModel(frozen, PrefixConfig(num_virtual_tokens=P)))
    batch = ids(2).to(frozen.device)
    call = {"input_ids": batch, "attention_mask": torch.ones_like(batch)}
    one = {"input_ids": batch[:1]}
    if frozen.config.is_encoder_decoder:
        call |= {"decoder_input_ids": batch[:, :3]}
        one |= {"decoder_input_ids": batch[:1, :3]}
    found = attention_by_place(model, [one])
    whole = found.tokens.sum(1) + found.input
    torch.testing.assert_close(whole, torch.ones_like(whole), atol=1e-5, rtol=0)
    parts = {"encoder", "decoder", "cross"} if frozen.config.is_encoder_decoder else {"encoder"}
    assert {part for part, _ in found.places} == parts
    for place in range(len(found.places)):
        model.load_kv_prefix(kv := kv_of(model))
        before = model(**call)[0]
        with model.without([1, 3], places=[place]):
            less = model(**call)[0]
            assert float((less - before).abs().max()) > 1e-5
            kv.values[place][:, [1, 3]] += 3
            model.load_kv_prefix(kv)
            torch.testing.assert_close(model(**call)[0], less, atol=1e-5, rtol=1e-5)
