"""Models that choose among keys by index keys: the prefix's come along, and no gradient does."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.prefix import (
    KVPrefix,
    PrefixConfig,
    PrefixError,
    PrefixModel,
    kv_prefix_from_tokens,
    random_kv_prefix,
    stretched_kv_prefix,
    zero_kv_prefix,
)
from pipeline.prefix.starts.attended import picked
from pipeline.prefix.states import has_tokens
from tests.conftest import kv_of
from tests.prefix import indexed
from tests.prefix.indexed import CONFIGURATIONS
from tests.prefix.test_architectures import P, gradient, padded, prefixed, tokens

build = cache(indexed.build)
GREEDY: dict[str, Any] = {
    "do_sample": False,
    "max_new_tokens": 4,
    "min_new_tokens": 4,
    "pad_token_id": 3,
}
every = pytest.mark.parametrize("name", CONFIGURATIONS)
# Its index is made of places in the row, whatever the mask: rows behind padding are computed apart.
BY_PLACE = ("minimax_m3_vl_text",)


def a_batch() -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    rows = [tokens(length, seed) for seed, length in enumerate((9, 5, 14))]
    return rows, padded(rows, "left")


@every
@torch.no_grad()
def test_identity_and_greedy_generation(name: str) -> None:
    model, text = build(name), tokens(P, 0)
    rows, batch = a_batch()
    tuned = prefixed(model, text)
    logits = tuned(**batch).logits
    found = tuned.generate(**batch, **GREEDY)[:, batch["input_ids"].shape[1] :]
    for index, row in enumerate(rows):
        whole = torch.cat([text, row])[None]
        expected = model(input_ids=whole).logits[0, P:]
        chosen = batch["attention_mask"][index].bool()
        torch.testing.assert_close(logits[index][chosen], expected, rtol=0, atol=1e-4)
        written = model.generate(input_ids=whole, **GREEDY)[0, whole.shape[1] :]
        assert found[index].tolist() == written.tolist()


@every
def test_a_training_step_and_recomputed_layers(name: str) -> None:
    model = build(name)
    _, batch = a_batch()
    tuned = prefixed(model, tokens(P, 0))
    found = gradient(tuned, batch)
    widths = [shape[0] * shape[1] for pair in tuned.kv_shapes for shape in pair]
    assert all(part.abs().max() > 0 for part in found.split(widths, 1) if part.numel())
    assert [n for n, p in tuned.named_parameters() if p.requires_grad] == ["encoder.embedding"]
    tuned.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    recomputed = gradient(tuned, batch)
    model.gradient_checkpointing_disable()
    torch.testing.assert_close(recomputed, found, rtol=1e-5, atol=1e-6)


@every
def test_slices_and_the_file_keep_index_keys(name: str, tmp_path: Path) -> None:
    model, text = build(name), tokens(P, 0)
    kv = kv_prefix_from_tokens(model, text)
    assert kv.kinds == ("attention",)
    assert kv.states
    assert all(map(has_tokens, kv.states))
    kv.save(tmp_path / "prefix.safetensors")
    tuned = PrefixModel(model, PrefixConfig(num_virtual_tokens=8))
    tuned.load_kv_prefix(KVPrefix.load(tmp_path / "prefix.safetensors")[:8])
    shorter = kv_prefix_from_tokens(model, text[:8])
    for found in (kv[:8], kv_of(tuned)):
        assert list(found.states) == list(shorter.states)
        for name_, state in shorter.states.items():
            torch.testing.assert_close(found.states[name_], state)


def test_without_a_text_index_keys_are_noise_or_zero() -> None:
    model = build("deepseek_v32")
    drawn = PrefixModel(model, PrefixConfig(P))
    assert all(float(keys.std()) > 0.1 for keys in kv_of(drawn).states.values())
    zero = PrefixModel(model, PrefixConfig(P, init_weights="zero"))
    assert not any(keys.any() for keys in kv_of(zero).states.values())
    bare = kv_of(drawn)
    bare.states.clear()
    drawn.load_kv_prefix(bare)
    assert not any(keys.any() for keys in kv_of(drawn).states.values())


def test_noise_has_the_scale_of_the_models_own() -> None:
    model = PrefixModel(build("minimax_m3_vl_text"), PrefixConfig(P))
    noise = random_kv_prefix(model.cache_shapes, P, 0.5, torch.Generator().manual_seed(0))
    own = kv_prefix_from_tokens(model.frozen_model, tokens(P, 0))
    assert list(noise.states) == list(own.states) == ["0.idx_keys", "2.idx_keys"]
    for name, keys in own.states.items():
        assert noise.states[name].shape == keys.shape
        assert float(noise.states[name].std() / keys.std()) == pytest.approx(0.5, rel=0.3)
    model.load_kv_prefix(noise)
    zero = zero_kv_prefix(model.cache_shapes, P)
    assert not any(keys.any() for keys in zero.states.values())


@pytest.mark.parametrize("name", ["deepseek_v32", "hy_v4"])
def test_tokens_chosen_from_a_text_take_their_index_keys_along(name: str) -> None:
    model, text, chosen = build(name), tokens(P, 0), [3, 4, 9]
    found = picked(prefixed(model, text), kv_prefix_from_tokens(model, text), chosen)
    alone = kv_prefix_from_tokens(model, text[chosen])
    # In the first layer they are of the token and its position alone.
    first = next(iter(alone.states))
    assert first.startswith("0.")
    torch.testing.assert_close(found.states[first], alone.states[first], rtol=0, atol=1e-3)
    torch.testing.assert_close(found.keys[0], alone.keys[0], rtol=0, atol=1e-3)
    longer = stretched_kv_prefix(found, 6)
    assert torch.equal(longer.states[first][::2], found.states[first])


@pytest.mark.parametrize("name", ["deepseek_v32", *BY_PLACE])
@torch.no_grad()
def test_beams_cropped_caches_and_plain_ones(name: str) -> None:
    model, text, row = build(name), tokens(P, 0), tokens(9, 1)
    tuned, whole = prefixed(model, text), torch.cat([text, row])[None]
    beams = {**GREEDY, "num_beams": 3, "num_return_sequences": 2}
    found = tuned.generate(input_ids=row[None], **beams)[:, len(row) :]
    assert torch.equal(found, model.generate(input_ids=whole, **beams)[:, whole.shape[1] :])
    cache: Any = tuned.new_cache()
    logits = tuned(input_ids=row[None], past_key_values=cache, use_cache=True).logits
    cache.crop(-3)
    again = tuned(input_ids=row[None, 6:], past_key_values=cache, use_cache=True).logits
    torch.testing.assert_close(again, logits[:, 6:], rtol=0, atol=1e-4)
    plain = model(
        input_ids=row[None],
        attention_mask=torch.ones_like(whole),
        past_key_values=kv_of(tuned).to_cache(config=model.config),
    )
    torch.testing.assert_close(plain.logits, logits, rtol=0, atol=1e-4)


def test_peft_cannot_hold_index_keys(tmp_path: Path) -> None:
    (name,) = BY_PLACE
    tuned = prefixed(build(name), tokens(P, 0))
    with pytest.raises(PrefixError, match="without the index keys"):
        tuned.save_pretrained(tmp_path)
    with pytest.raises(PrefixError, match="MiniMaxM3VLForCausalLM chooses among keys by index"):
        PrefixModel.from_pretrained(tuned.frozen_model, tmp_path)


def test_a_model_that_reads_no_token_elsewhere_moves_none() -> None:
    (name,) = BY_PLACE
    model, text = build(name), tokens(P, 0)
    with pytest.raises(PrefixError, match="MiniMaxM3VLForCausalLM reads no token alone"):
        picked(prefixed(model, text), kv_prefix_from_tokens(model, text), [3, 9])


def test_a_hybrid_with_an_index_has_both_beside_its_keys() -> None:
    torch.manual_seed(0)
    model, text, row = indexed.qwen4_exp(), tokens(P, 0), tokens(9, 1)
    tuned = prefixed(model, text)
    kv = kv_of(tuned)
    assert kv.kinds == ("attention", "state")
    assert [name for name in kv.states if has_tokens(name)] == ["1.indexer_keys", "3.indexer_keys"]
    logits = tuned(input_ids=row[None]).logits
    whole = torch.cat([text, row])[None]
    torch.testing.assert_close(logits, model(input_ids=whole).logits[:, P:], rtol=0, atol=1e-4)
    logits.logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in tuned.encoder.parameters())
    written = model.generate(input_ids=whole, **GREEDY)[0, whole.shape[1] :]
    found = tuned.generate(input_ids=row[None], **GREEDY)[0, len(row) :]
    assert found.tolist() == written.tolist()
    PrefixModel(model, PrefixConfig(P, kinds=("attention",)))


def test_ids_of_tokens_that_a_layer_remembers_are_kept_and_never_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, text = indexed.qwen4_exp(), tokens(P, 0)
    tuned = prefixed(model, text).train()
    encoder: Any = tuned.encoder
    trained = sum(parameter.numel() for parameter in encoder.states.parameters())
    assert trained == sum(s.numel for s in tuned.state_shapes.values() if s.is_trained)
    optimizer = torch.optim.AdamW(tuned.encoder.parameters(), lr=10.0, weight_decay=0.5)
    tuned(input_ids=tokens(9, 1)[None]).logits.logsumexp(-1).sum().backward()
    optimizer.step()
    kv = kv_of(tuned)
    assert not kv.states["0.conv.2"].is_floating_point()
    assert kv.states["0.conv.2"].tolist() == text[-2:].tolist()
    # In a dtype that rounds them, moved, saved and resumed they are the same.
    assert torch.equal(kv.to(torch.bfloat16).states["0.conv.2"], kv.states["0.conv.2"])
    kv.save(tmp_path / "prefix.safetensors")
    again = PrefixModel(model, PrefixConfig(P))
    again.load_kv_prefix(KVPrefix.load(tmp_path / "prefix.safetensors"))
    resumed = PrefixModel(model, PrefixConfig(P))
    resumed.encoder.load_state_dict(tuned.encoder.state_dict())
    for other in (again, resumed):
        found = kv_of(other).states["0.conv.2"]
        assert torch.equal(found, kv.states["0.conv.2"])
        assert found.dtype == torch.long
    # Noise is of numbers alone.
    shapes = tuned.cache_shapes
    for drawn in (random_kv_prefix(shapes, P, 1.0, torch.Generator()), zero_kv_prefix(shapes, P)):
        again.load_kv_prefix(drawn)
        assert not kv_of(again).states["0.conv.2"].any()
        assert again(input_ids=tokens(9, 1)[None]).logits.isfinite().all()


def test_index_keys_of_another_model_are_refused() -> None:
    model = build("deepseek_v32")
    tuned = PrefixModel(model, PrefixConfig(P))
    kv = kv_of(tuned)
    del kv.states["3.indexer_keys"]
    with pytest.raises(PrefixError, match=r"index keys .* was made for another model"):
        tuned.load_kv_prefix(kv)


@pytest.mark.parametrize("name", ["deepseek_v32", "dots3_note_text"])
@torch.no_grad()
def test_layers_without_the_prefix_compute_as_without_it(name: str) -> None:
    model, row = build(name), tokens(9, 1)
    tuned = prefixed(model, tokens(P, 0), layers=(2,))
    assert list(kv_of(tuned).states) == ["2.indexer_keys"]
    found = tuned(input_ids=row[None], output_hidden_states=True)
    bare = model(
        input_ids=row[None],
        position_ids=torch.arange(P, P + len(row))[None],
        output_hidden_states=True,
    )
    torch.testing.assert_close(found.hidden_states[2], bare.hidden_states[2], rtol=0, atol=1e-4)
    assert float((found.logits - bare.logits).abs().max()) > 1e-3


def test_an_index_that_knows_no_mask_is_refused_what_a_mask_would_hide() -> None:
    (name,) = BY_PLACE
    model, text = build(name), tokens(P, 0)
    with pytest.raises(PrefixError, match=r"layers: MiniMaxM3VL\w+ chooses among keys whatever"):
        PrefixModel(model, PrefixConfig(P, layers=(0,)))
    tuned, rows = prefixed(model, text), [tokens(4, 1), tokens(6, 2)]
    with tuned.without([0]), pytest.raises(PrefixError, match="hidden virtual tokens"):
        tuned(input_ids=rows[0][None])
    for side in ("left", "right"):
        batch = padded(rows, side)
        found = tuned(**batch).logits
        for logits, mask, row in zip(found, batch["attention_mask"], rows, strict=True):
            expected = model(input_ids=torch.cat([text, row])[None]).logits[0, P:]
            torch.testing.assert_close(logits[mask.bool()], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["deepseek_v32", *BY_PLACE])
def test_packed_examples_would_compete(name: str) -> None:
    reason = PrefixModel(build(name), PrefixConfig(P)).why_not_packed(tokens=4)
    assert "chooses among the keys of a row" in str(reason)


def test_a_layer_that_takes_over_a_choice_is_named_with_the_one_that_chose() -> None:
    model = build("glm_moe_dsa")
    with pytest.raises(PrefixError, match=r"layers names 2, .* layer 1 has chosen; name 1 too"):
        PrefixModel(model, PrefixConfig(P, layers=(0, 2)))
    assert len(kv_of(prefixed(model, tokens(P, 0), layers=(1, 2))).keys) == 2
