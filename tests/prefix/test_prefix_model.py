"""The prefix model: encoders, sharing a frozen model, decoding, compiling."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pipeline.prefix import (
    KVPrefix,
    PrefixConfig,
    PrefixError,
    PrefixModel,
    kv_prefix_from_tokens,
    random_kv_prefix,
)
from pipeline.prefix.architecture.shapes import kv_shapes
from pipeline.prefix.injection import exactness
from tests.conftest import kv_of, tiny_model

TEXT = list(range(10, 22))
BATCH = {
    "input_ids": torch.tensor([[0, 0, 30, 31, 32], [40, 41, 42, 43, 44]]),
    "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
}


def prefixed(model: PreTrainedModel, ids: list[int], **config: Any) -> PrefixModel:
    result = PrefixModel(model, PrefixConfig(num_virtual_tokens=len(ids), **config)).eval()
    result.load_kv_prefix(kv_prefix_from_tokens(model, ids))
    return result


def step(model: PrefixModel, rate: float = 0.1) -> None:
    optimizer = torch.optim.SGD(model.encoder.parameters(), lr=rate)
    model.train()(**BATCH).logits.logsumexp(-1).sum().backward()
    optimizer.step()
    model.eval()


def same(left: KVPrefix, right: KVPrefix) -> bool:
    pairs = zip(left.keys + left.values, right.keys + right.values, strict=True)
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 9), st.booleans(), st.sampled_from([None, 5]), st.integers(0, 99))
def test_the_start_is_exact(p: int, projected: bool, hidden: int | None, seed: int) -> None:
    """With the MLP too: at step 0 the encoder yields the given keys and values to the bit."""
    model = tiny_model()
    kv = random_kv_prefix(kv_shapes(model), p, 1.0, torch.Generator().manual_seed(seed))
    config = PrefixConfig(
        num_virtual_tokens=p,
        prefix_projection=projected,
        encoder_hidden_size=hidden if projected else None,
    )
    tuned = PrefixModel(model, config)
    tuned.load_kv_prefix(kv)
    assert same(kv_of(tuned), kv)
    step(tuned)
    assert not same(kv_of(tuned), kv)


@pytest.mark.parametrize("projected", [False, True])
def test_frozen_virtual_tokens_stay(model: PreTrainedModel, projected: bool) -> None:
    tuned = prefixed(model, TEXT, num_frozen_tokens=3, prefix_projection=projected)
    start = kv_of(tuned)
    step(tuned)
    assert same(kv_of(tuned)[:3], start[:3])
    assert not torch.equal(kv_of(tuned).keys[0][:, 3:], start.keys[0][:, 3:])


def test_zero_weights(model: PreTrainedModel) -> None:
    for projected in (False, True):
        config = PrefixConfig(3, prefix_projection=projected, init_weights="zero")
        kv = kv_of(PrefixModel(model, config))
        assert not any(bool(tensor.any()) for tensor in kv.keys + kv.values)


def test_dropout_acts_in_training_alone(model: PreTrainedModel) -> None:
    tuned = prefixed(model, TEXT, prefix_dropout=0.5)
    with torch.no_grad():
        assert torch.equal(tuned(**BATCH).logits, tuned(**BATCH).logits)
        assert torch.equal(tuned(**BATCH).logits, prefixed(model, TEXT)(**BATCH).logits)
        tuned.train()
        assert not torch.equal(tuned(**BATCH).logits, tuned(**BATCH).logits)


@torch.no_grad()
def test_several_prefixes_share_one_model() -> None:
    frozen, untouched = tiny_model(), tiny_model()
    bare = untouched(**BATCH).logits
    first, second = prefixed(frozen, TEXT), prefixed(frozen, TEXT[::-1])
    expected = [prefixed(tiny_model(), ids)(**BATCH).logits for ids in (TEXT, TEXT[::-1])]
    for _ in range(2):
        assert torch.equal(first(**BATCH).logits, expected[0])
        assert torch.equal(frozen(**BATCH).logits, bare)
        assert torch.equal(second(**BATCH).logits, expected[1])
        with first.frozen() as model:
            assert torch.equal(model(**BATCH).logits, bare)
    first.detach()
    second.detach()
    assert torch.equal(frozen(**BATCH).logits, bare)
    assert not any(module._forward_pre_hooks for module in frozen.modules())


@torch.no_grad()
def test_without_a_prefix_it_is_the_model_itself(model: PreTrainedModel) -> None:
    empty = PrefixModel(model)
    assert empty.prefix_length == 0
    assert empty.kv_prefix() is None
    assert all(parameter.requires_grad for parameter in empty.parameters())
    assert torch.equal(empty(**BATCH).logits, model(**BATCH).logits)
    how = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 3}
    assert torch.equal(empty.generate(**BATCH, **how), model.generate(**BATCH, **how))
    cache: Any = empty.new_cache()
    for start, end in ((0, 3), (3, 5)):
        ids, mask = BATCH["input_ids"][:, start:end], BATCH["attention_mask"][:, :end]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, start:end]
        logits = empty(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).logits
    assert cache.get_seq_length() == 5
    whole = empty(**BATCH).logits
    torch.testing.assert_close(logits[:, -1], whole[:, -1], rtol=0, atol=1e-5)
    with pytest.raises(PrefixError, match="make it with PrefixConfig\\(num_virtual_tokens=12\\)"):
        empty.load_kv_prefix(kv_prefix_from_tokens(model, TEXT))
    with pytest.raises(PrefixError, match="no prefix to save"):
        empty.save_pretrained("never-written")


def test_the_bare_model_after_a_failed_call(model: PreTrainedModel) -> None:
    bare = model(**BATCH).logits
    tuned = prefixed(model, TEXT)
    with pytest.raises(Exception, match=r".+"):
        tuned(input_ids=torch.tensor([[10_000]]))
    assert torch.equal(model(**BATCH).logits, bare)


@pytest.mark.parametrize(
    "how",
    [
        {"do_sample": False},
        {"do_sample": True, "temperature": 1.5},
        {"num_beams": 3, "do_sample": False},
        {"do_sample": False, "use_cache": False},
        {"num_return_sequences": 2, "do_sample": True},
        # Cuts back the cache by what was guessed wrong, also by nothing.
        {"prompt_lookup_num_tokens": 3, "do_sample": False},
    ],
)
def test_generate_is_that_of_the_text_in_the_context(
    model: PreTrainedModel, how: dict[str, Any]
) -> None:
    row = torch.tensor([[30, 31, 32]])
    whole = torch.cat([torch.tensor([TEXT]), row], dim=1)
    limits = {"max_new_tokens": 8, "min_new_tokens": 8, "pad_token_id": 3}
    tuned = prefixed(model, TEXT)
    torch.manual_seed(0)
    found = tuned.generate(input_ids=row, **limits, **how)
    torch.manual_seed(0)
    expected = model.generate(input_ids=whole, **limits, **how)
    assert found[:, 3:].tolist() == expected[:, whole.shape[1] :].tolist()


@torch.no_grad()
def test_cached_decoding_goes_on_after_the_prefix(model: PreTrainedModel) -> None:
    tuned = prefixed(model, TEXT)
    whole = tuned(**BATCH).logits
    cache: Any = tuned.new_cache()
    pieces = []
    for start, end in ((0, 3), (3, 4), (4, 5)):
        mask = BATCH["attention_mask"][:, :end]
        ids = BATCH["input_ids"][:, start:end]
        output = tuned(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
        pieces.append(output.logits)
    chosen = BATCH["attention_mask"].bool()
    torch.testing.assert_close(torch.cat(pieces, 1)[chosen], whole[chosen], rtol=0, atol=1e-5)
    cache.crop(0)
    assert cache.get_seq_length() == 5
    cache.crop(-2)
    again = tuned(
        input_ids=BATCH["input_ids"][:, 3:],
        attention_mask=BATCH["attention_mask"],
        past_key_values=cache,
        use_cache=True,
    ).logits
    torch.testing.assert_close(again, whole[:, 3:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_plain_transformers_takes_the_prefix_as_a_cache(model: PreTrainedModel) -> None:
    kv = kv_prefix_from_tokens(model, TEXT)
    mask = torch.cat([torch.ones(2, len(TEXT), dtype=torch.long), BATCH["attention_mask"]], 1)
    positions = (BATCH["attention_mask"].cumsum(-1) - 1).clamp(min=0) + len(TEXT)
    found = model(
        input_ids=BATCH["input_ids"],
        attention_mask=mask,
        position_ids=positions,
        past_key_values=kv.to_cache(batch_size=2),
    ).logits
    chosen = BATCH["attention_mask"].bool()
    expected = prefixed(model, TEXT)(**BATCH).logits
    torch.testing.assert_close(found[chosen], expected[chosen], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_compiled_forward(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = prefixed(model, TEXT)
    were_compiling: list[bool] = []
    tried = exactness._compared

    def noting(*arguments: Any) -> Any:
        were_compiling.append(torch.compiler.is_compiling())
        return tried(*arguments)

    monkeypatch.setattr(exactness, "_compared", noting)
    found, expected = (
        torch.compile(tuned, backend="aot_eager")(**BATCH).logits,
        tuned(**BATCH).logits,
    )
    # What is tried once, at the first row with padding before it, becomes no graph.
    assert were_compiling == [False]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    (parameter,) = tuned.encoder.parameters()
    gradients = [
        torch.autograd.grad(logits.logsumexp(-1).sum(), parameter)[0]
        for logits in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_a_pinned_seed_gives_the_same_training(model: PreTrainedModel) -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        tuned = PrefixModel(model, PrefixConfig(5, prefix_dropout=0.2))
        step(tuned)
        results.append(kv_of(tuned))
    assert same(*results)


@torch.no_grad()
def test_the_seed_example(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """PEFT's own initialisation from a text gives the same numbers."""
    from peft import PrefixTuningConfig, get_peft_model, initialize_kv_prefix_from_text

    from pipeline.prefix import kv_prefix_from_text

    text = "Prefix tuning keeps a language model frozen. " * 3
    theirs = get_peft_model(
        tiny_model(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=20)
    )
    initialize_kv_prefix_from_text(
        theirs, tokenizer, text=text, num_virtual_tokens=20, use_chat_template=False
    )
    ours = PrefixModel(model, PrefixConfig(num_virtual_tokens=20)).eval()
    ours.load_kv_prefix(kv_prefix_from_text(model, tokenizer, text, num_virtual_tokens=20))
    ids = torch.tensor([[30, 31, 32]])
    torch.testing.assert_close(
        ours(input_ids=ids).logits, theirs.eval()(input_ids=ids).logits, rtol=0, atol=1e-4
    )
