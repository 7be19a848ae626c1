"""Models whose layers recur: a text's states are the text, in every pass, and can be trained."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from pipeline.prefix import (
    KVPrefix,
    PrefixConfig,
    PrefixError,
    PrefixModel,
    kv_prefix_from_cache,
    kv_prefix_from_tokens,
    random_kv_prefix,
    stretched_kv_prefix,
    zero_kv_prefix,
)
from tests.conftest import kv_of
from tests.prefix.recurrent import SETTINGS, SINGLE_TOKENS, VOCABULARY, build

P = 12
FEW = ("qwen3_next", "falcon_h1", "mamba2", "lfm2", "zamba2")
GREEDY: dict[str, Any] = {
    "do_sample": False,
    "max_new_tokens": 3,
    "min_new_tokens": 3,
    "pad_token_id": 0,
}


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(4, VOCABULARY, shape, generator=draw)


TEXT, ROWS = tokens(P), tokens(2, 7, seed=1)


def prefixed(name: str, dtype: torch.dtype = torch.float32, **config: Any) -> PrefixModel:
    """A tiny model after the text."""
    model = build(name) if dtype == torch.float32 else copy.deepcopy(build(name)).to(dtype)
    tuned = PrefixModel(model, PrefixConfig(P, **config)).eval()
    tuned.load_kv_prefix(kv_prefix_from_tokens(model, TEXT))
    return tuned


def after_text(
    model: PreTrainedModel, rows: torch.Tensor, text: torch.Tensor = TEXT
) -> torch.Tensor:
    """The bare model's logits of rows after a text."""
    whole = torch.cat([text.expand(len(rows), -1), rows], dim=1)
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=whole, use_cache=False).logits[:, len(text) :]
    return logits


def close(found: torch.Tensor, expected: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def loss_of(model: PrefixModel) -> torch.Tensor:
    loss: torch.Tensor = model(input_ids=ROWS, labels=ROWS).loss
    return loss


def gradients(model: PrefixModel) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss_of(model).backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_a_texts_states_are_the_text(name: str) -> None:
    model, tuned = build(name), prefixed(name)
    assert "state" in kv_of(tuned).kinds
    found, expected = tuned(input_ids=ROWS).logits, after_text(model, ROWS)
    close(found, expected)
    # A text that is shorter than a convolution is wide.
    one = PrefixModel(model, PrefixConfig(1)).eval()
    one.load_kv_prefix(kv_prefix_from_tokens(model, TEXT[:1]))
    close(one(input_ids=ROWS).logits, after_text(model, ROWS, TEXT[:1]))
    assert float((expected - model(input_ids=ROWS).logits).abs().max()) > 1e-2
    # A row that is padded on the right, beside a longer one.
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    close(tuned(input_ids=ROWS, attention_mask=mask).logits[1, :4], expected[1, :4])
    for rows in (ROWS, ROWS[:, :1]):
        whole = torch.cat([TEXT.expand(len(rows), -1), rows], dim=1)
        ones = torch.ones_like(whole)
        greedy = model.generate(input_ids=whole, attention_mask=ones, **GREEDY)[:, P:]
        written = tuned.generate(input_ids=rows, attention_mask=torch.ones_like(rows), **GREEDY)
        assert written.tolist() == greedy.tolist()


@pytest.mark.parametrize("name", SETTINGS)
def test_training_reaches_every_layer(name: str) -> None:
    """Gradients are those of the loss, and the same with activation checkpointing."""
    tuned = prefixed(name).train()
    found = gradients(tuned)
    states = found["encoder.states.flat"].split([s.numel for s in tuned.state_shapes.values()])
    for state, gradient in zip(tuned.state_shapes, states, strict=True):
        assert float(gradient.abs().max()) > 0, state
    tuned.gradient_checkpointing_enable()
    try:
        again = gradients(tuned)
    finally:
        tuned.gradient_checkpointing_disable()
    for parameter, gradient in found.items():
        close(again[parameter], gradient, 1e-5 * float(gradient.abs().max()))
    # The slope along the gradient, by the loss at both ends of a short way.
    slope = sum(float(gradient.square().sum()) for gradient in found.values()) ** 0.5
    losses = []
    with torch.no_grad():
        for way in (1e-3, -2e-3):
            for parameter, gradient in found.items():
                tuned.get_parameter(parameter).add_(gradient * (way / slope))
            losses.append(float(loss_of(tuned)))
    assert losses[0] - losses[1] == pytest.approx(2e-3 * slope, rel=0.05)


@pytest.mark.parametrize("name", FEW)
@torch.no_grad()
def test_beams_are_the_bare_models(name: str) -> None:
    model, tuned = build(name), prefixed(name)
    beams = {**GREEDY, "num_beams": 3, "num_return_sequences": 2}
    whole = torch.cat([TEXT.expand(2, -1), ROWS], dim=1)
    expected = model.generate(input_ids=whole, attention_mask=torch.ones_like(whole), **beams)
    found = tuned.generate(input_ids=ROWS, attention_mask=torch.ones_like(ROWS), **beams)
    assert found.tolist() == expected[:, P:].tolist()


@pytest.mark.parametrize("name", FEW)
@torch.no_grad()
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    """A file has all of it, and plain transformers goes on from its cache."""
    model, tuned = build(name), prefixed(name)
    expected = tuned(input_ids=ROWS).logits
    kv_of(tuned).save(tmp_path / "prefix.safetensors")
    kv = KVPrefix.load(tmp_path / "prefix.safetensors")
    assert (kv.kinds, kv.layers, len(kv)) == (
        kv_of(tuned).kinds,
        kv_of(tuned).layers,
        P,
    )
    again = PrefixModel(model, PrefixConfig(P)).eval()
    again.load_kv_prefix(kv)
    assert torch.equal(again(input_ids=ROWS).logits, expected)
    mask = torch.ones(2, (P if kv.keys else 0) + ROWS.shape[1], dtype=torch.long)
    cache = {tuned.cache_name: kv.to_cache(2, model.config)}
    close(model(input_ids=ROWS, attention_mask=mask, **cache).logits, expected)
    from_cache = kv_prefix_from_cache(kv.to_cache(1, model.config), P)
    assert all(torch.equal(from_cache.states[state], kv.states[state]) for state in kv.states)


@pytest.mark.parametrize("kinds", [("attention",), ("state",)], ids="-".join)
@pytest.mark.parametrize("name", ["qwen3_next", "falcon_h1", "zamba2", "jamba", "zamba"])
@torch.no_grad()
def test_one_kind_alone(name: str, kinds: tuple[str, ...]) -> None:
    """It is what the model computes from a plain cache with the same in it."""
    model = build(name)
    if kinds == ("state",) and name in SINGLE_TOKENS:
        with pytest.raises(PrefixError, match="without its recurrent state"):
            prefixed(name, kinds=kinds)
        return
    tuned = prefixed(name, kinds=kinds)
    kv = kv_of(tuned)
    p = P if kinds == ("attention",) else 0
    assert (kv.kinds, len(kv)) == (kinds, P)
    mask = torch.ones(2, p + ROWS.shape[1], dtype=torch.long)
    cache = kv.to_cache(2, model.config)
    expected = model(input_ids=ROWS, attention_mask=mask, past_key_values=cache).logits
    close(tuned(input_ids=ROWS).logits, expected)
    assert float((expected - after_text(model, ROWS)).abs().max()) > 1e-3
    ones = torch.ones_like(ROWS)
    expected = model.generate(
        input_ids=ROWS,
        attention_mask=mask,
        past_key_values=kv.to_cache(2, model.config),
        **GREEDY,
    )
    found = tuned.generate(input_ids=ROWS, attention_mask=ones, **GREEDY)
    assert found.tolist() == expected.tolist()
    if kinds == ("attention",) and name in ("qwen3_next", "jamba"):
        # Recurrent layers begin anew, so that padding before a row does nothing to them.
        left = torch.tensor([[1] * 7, [0] * 3 + [1] * 4])
        shifted = torch.stack([ROWS[0], ROWS[1].roll(3)])
        padded = tuned(input_ids=shifted, attention_mask=left).logits[1, 3:]
        close(padded, tuned(input_ids=ROWS[1:, :4]).logits[0])


@torch.no_grad()
def test_layers_are_chosen() -> None:
    model = build("qwen3_next")
    tuned = prefixed("qwen3_next", layers=(0,))
    kv = kv_of(tuned)
    assert (kv.kinds, list(kv.states)) == (("state",), ["0.conv", "0.recurrent"])
    alone = prefixed("qwen3_next", kinds=("state",))
    close(tuned(input_ids=ROWS).logits, alone(input_ids=ROWS).logits)
    attention = prefixed("qwen3_next", layers=(1,))
    assert (kv_of(attention).kinds, kv_of(attention).layers) == (("attention",), (1,))
    for config, sentence in (
        (PrefixConfig(P, layers=(2,)), "layers names 2, but the model's layers are 0 to 1"),
        (PrefixConfig(P, layers=(0,), kinds=("attention",)), "layers names 0, which has no atten"),
    ):
        with pytest.raises(PrefixError, match=sentence):
            PrefixModel(model, config)


@pytest.mark.parametrize("name", ["kimi_linear", "bailing_hybrid"])
@torch.no_grad()
def test_no_key_is_hidden_from_a_recurrence_that_is_called_attention(name: str) -> None:
    found = prefixed(name, layers=(1,))(input_ids=ROWS).logits
    close(found, prefixed(name, kinds=("attention",))(input_ids=ROWS).logits)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    visible = prefixed(name, prefix_always_visible=True)
    found = visible(input_ids=ROWS, attention_mask=mask).logits[1, :4]
    close(found, after_text(build(name), ROWS)[1, :4])


@torch.no_grad()
def test_states_are_hidden() -> None:
    """A layer without its state begins as at the start of a text."""
    tuned, model = prefixed("mamba2"), build("mamba2")
    with tuned.without():
        close(tuned(input_ids=ROWS).logits, model(input_ids=ROWS).logits)
    last = prefixed("mamba2", layers=(1,))
    with tuned.without(states=[0]):
        close(tuned(input_ids=ROWS).logits, last(input_ids=ROWS).logits)
    both = prefixed("qwen3_next")
    with both.without(states=[0]):
        close(
            both(input_ids=ROWS).logits,
            prefixed("qwen3_next", kinds=("attention",))(input_ids=ROWS).logits,
        )
    with (
        pytest.raises(PrefixError, match="no state of layer 1; it has 0"),
        both.without(states=[1]),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("qwen3_next", torch.bfloat16),
        ("mamba2", torch.bfloat16),
        ("lfm2", torch.bfloat16),
        ("qwen3_next", torch.float16),
    ],
)
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    """States are trained in float32, and given in what the model keeps its own in."""
    tuned = prefixed(name, dtype)
    kept = {shape.dtype for shape in tuned.state_shapes.values()}
    assert kept <= {dtype, torch.float32}
    cache = tuned.new_cache()
    with torch.no_grad():
        found = tuned(input_ids=ROWS, use_cache=True, **{tuned.cache_name: cache}).logits
    expected = after_text(tuned.frozen_model, ROWS)
    assert float((found - expected).abs().max()) < 0.1 * float(expected.abs().max())
    # What follows is in the dtype of the model's own cache.
    with torch.no_grad():
        tuned(input_ids=ROWS[:, :1], use_cache=True, **{tuned.cache_name: cache})
    for name_of_state, gradient in gradients(tuned.train()).items():
        assert gradient.dtype == torch.float32
        assert bool(gradient.isfinite().all()), name_of_state


def test_drawn_and_zero() -> None:
    """Noise is of the size of the model's own states; zeros are the state before any text."""
    model = build("qwen3_next")
    tuned = PrefixModel(model, PrefixConfig(P))
    shapes = tuned.cache_shapes
    drawn = random_kv_prefix(shapes, P, 1.0, torch.Generator().manual_seed(0))
    tuned.load_kv_prefix(drawn)
    for name, state in drawn.states.items():
        assert float(state.std()) == pytest.approx(tuned.state_shapes[name].scale, rel=0.3)
    assert set(kv_of(PrefixModel(model, PrefixConfig(P))).states) == set(drawn.states)
    zero = zero_kv_prefix(shapes, P)
    state_alone = PrefixModel(model, PrefixConfig(P, kinds=("state",))).eval()
    state_alone.load_kv_prefix(zero)
    with torch.no_grad():
        close(state_alone(input_ids=ROWS).logits, model(input_ids=ROWS).logits)


def test_projection_leaves_states_as_parameters() -> None:
    tuned = prefixed("qwen3_next", prefix_projection=True).train()
    with torch.no_grad():
        close(tuned(input_ids=ROWS).logits, after_text(build("qwen3_next"), ROWS))
    assert "encoder.states.flat" in gradients(tuned)
    with pytest.raises(PrefixError, match="reparametrises keys and values, of which"):
        PrefixModel(build("mamba2"), PrefixConfig(P, prefix_projection=True))


@torch.no_grad()
def test_a_cache_goes_back_by_its_last_pass() -> None:
    tuned = prefixed("qwen3_next")
    cache: Any = tuned.new_cache()
    cache.activate_past_recording()
    given = {"past_key_values": cache, "use_cache": True}
    tuned(input_ids=ROWS[:, :3], **given)
    for _ in range(2):
        last = tuned(input_ids=ROWS[:, 3:], **given).logits
        cache.crop(3 - ROWS.shape[1])
    one = tuned(input_ids=ROWS[:, 3:4], **given).logits
    cache.crop(-1)
    cache.batch_select_indices(torch.tensor([1]))
    close(tuned(input_ids=ROWS[1:, 3:], **given).logits, last[1:])
    close(one[:, 0], last[:, 0])
    with pytest.raises(PrefixError, match="goes back by its last forward pass alone"):
        cache.crop(-1)


RIGHT = {"input_ids": ROWS, "attention_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3])}
BOTH = kv_prefix_from_tokens(build("qwen3_next"), TEXT)

REFUSED: dict[str, tuple[Any, str]] = {
    "a slice": (lambda: BOTH[:8], "a prefix with states has no slices"),
    "a longer one": (lambda: stretched_kv_prefix(BOTH, 20), "with states cannot be stretched"),
    "a row padded on the right, written on": (
        lambda: prefixed("qwen3_next").generate(**RIGHT, **GREEDY),
        "padded on the right cannot go on",
    ),
    "a gradient of a single token": (
        lambda: prefixed("mamba2")(input_ids=ROWS[:, :1]),
        "give rows of at least two tokens",
    ),
    "PEFT's format": (
        lambda: prefixed("falcon_h1").save_pretrained("nowhere"),
        "PEFT's format holds keys and values alone, this prefix has states too",
    ),
    "PEFT's cache": (
        lambda: prefixed("falcon_h1", kinds=("attention",)).save_pretrained("nowhere"),
        r"plain cache, which a model with layers that recur \(falcon_h1\) does not take",
    ),
    "PEFT's format, of some layers": (
        lambda: PrefixModel.from_pretrained(build("lfm2"), "nowhere"),
        r"attends in layers \[1\] alone, and PEFT's format",
    ),
    "layers where attention takes several masks at once": (
        lambda: prefixed("zaya", layers=(0,))(input_ids=ROWS),
        "ZayaAttention takes several masks at once, in none of which a prefix can be shown",
    ),
    "a kind that a model has not": (
        lambda: PrefixModel(build("mamba2"), PrefixConfig(P, kinds=("attention",))),
        "kinds names 'attention', but the model has state alone",
    ),
    "a kind that there is not": (lambda: PrefixConfig(P, kinds=("keys",)), "kinds is"),
    "a file without states": (
        lambda: PrefixModel(build("qwen3_next"), PrefixConfig(P)).load_kv_prefix(
            BOTH.of_kinds(("attention",))
        ),
        "the prefix has no 'state', only attention",
    ),
    "states of another model": (
        lambda: PrefixModel(build("qwen3_5"), PrefixConfig(P, kinds=("state",))).load_kv_prefix(
            kv_of(prefixed("kimi_linear"))
        ),
        "it was made for another model",
    ),
    "a cache of a longer text": (
        lambda: kv_prefix_from_cache(BOTH.to_cache(1, build("qwen3_next").config), 8),
        "holds states of 12 tokens, which are no states of its first 8",
    ),
    "a cache without the configuration": (BOTH.to_cache, "give the configuration of a model"),
}


@pytest.mark.filterwarnings("ignore:the prefix was made with")
@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_a_sentence(what: str) -> None:
    call, sentence = REFUSED[what]
    with pytest.raises(PrefixError, match=sentence):
        call()


@pytest.mark.parametrize("name", SINGLE_TOKENS)
def test_states_for_single_tokens_are_no_prefix(name: str) -> None:
    with pytest.raises(PrefixError, match="which it uses for single tokens alone"):
        PrefixModel(build(name), PrefixConfig(P))


def test_packed_rows_do_not_serve() -> None:
    assert "carries states on" in str(prefixed("qwen3_next").why_not_packed())
