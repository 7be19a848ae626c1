"""Encoder-decoders and encoders: each part's identity, training, checkpointing, generation, PEFT.

`python -m tests.prefix.table` prints the results as a table, a row an architecture.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from pipeline.prefix import (
    PrefixConfig,
    PrefixError,
    PrefixModel,
    kv_prefix_from_source_tokens,
    random_kv_prefix,
)
from tests.conftest import kv_of
from tests.prefix.encoders import ENCODER_DECODERS, ENCODERS, REFUSED, build

P = 6
TEXT = torch.arange(10, 10 + P)
TARGET = torch.arange(30, 30 + P)
SOURCE = torch.tensor([[50, 51, 52, 53], [60, 61, 62, 63]])
DECODED = torch.tensor([[3, 70, 71], [3, 72, 73]])

SEQ2SEQ = pytest.mark.parametrize("name", ENCODER_DECODERS)
EVERY = pytest.mark.parametrize("name", ENCODER_DECODERS | ENCODERS)


def refused(name: str, *parts: str, model: PreTrainedModel | None = None) -> bool:
    """Check that a part out of reach is refused; whether it is."""
    model = model or build(name)
    if name not in REFUSED or (name == "longt5" and "encoder" not in parts):
        return False
    with pytest.raises(PrefixError, match="itself, out of reach of transformers'"):
        PrefixModel(model, PrefixConfig(P, parts=parts))
    return True


def all_parts(name: str) -> tuple[str, ...]:
    return ("encoder", "decoder", "cross") if name in ENCODER_DECODERS else ("encoder",)


def inputs(name: str) -> dict[str, torch.Tensor]:
    extra = {"decoder_input_ids": DECODED} if name in ENCODER_DECODERS else {}
    return {"input_ids": SOURCE, **extra}


def prefixed(model: PreTrainedModel, *parts: str, **config: Any) -> PrefixModel:
    """A prefix of texts in some parts; the decoder's text followed the first source."""
    tuned = PrefixModel(model, PrefixConfig(P, parts=parts, **config)).eval()
    tuned.load_kv_prefix(kv_prefix_from_source_tokens(model, TEXT.tolist(), TARGET.tolist(), parts))
    return tuned


def randomly(model: PreTrainedModel, *parts: str, **config: Any) -> PrefixModel:
    """A random prefix, large enough to be felt."""
    tuned = PrefixModel(model, PrefixConfig(P, parts=parts or None, **config)).eval()
    draw = torch.Generator().manual_seed(1)
    tuned.load_kv_prefix(random_kv_prefix(tuned.kv_shapes, P, 1.0, draw))
    return tuned


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@EVERY
@torch.no_grad()
def test_encoder_identity(name: str) -> None:
    """Exactly the text before the input, where the text does not look ahead at the input."""
    if refused(name, "encoder"):
        return
    model = build(name)
    tuned = prefixed(model, "encoder")
    stack = model.get_encoder() if name in ENCODER_DECODERS else model.base_model
    with tuned._injection.active():
        found = stack(input_ids=SOURCE).last_hidden_state
    whole = torch.cat([TEXT.expand(2, -1), SOURCE], dim=1)
    visible: Any = torch.ones(2, 1, P + 4, P + 4, dtype=torch.bool)
    visible[:, :, :P, P:] = False
    if name == "modernbert":
        place = torch.arange(P + 4)
        near = (place - place[:, None]).abs() <= model.config.sliding_window
        visible = {"full_attention": visible, "sliding_attention": visible & near}
    expected = stack(input_ids=whole, attention_mask=visible).last_hidden_state[:, P:]
    close(found, expected)
    bare = stack(input_ids=SOURCE).last_hidden_state
    assert float((found - bare).abs().max()) > 1e-3


@SEQ2SEQ
@torch.no_grad()
def test_decoder_identity(name: str) -> None:
    """Exactly the target text before the target, for the source that the text was written for."""
    if refused(name, "decoder"):
        return
    model = build(name)
    tuned = prefixed(model, "decoder")
    found = tuned(input_ids=TEXT[None], decoder_input_ids=DECODED[:1]).logits
    start = torch.tensor([model.config.decoder_start_token_id])
    whole = torch.cat([start, TARGET[:-1], DECODED[0]])[None]
    expected = model(input_ids=TEXT[None], decoder_input_ids=whole).logits[:, P:]
    close(found, expected)


@SEQ2SEQ
@torch.no_grad()
def test_cross_identity(name: str) -> None:
    """Exactly a second encoder output, the text's, beside the input's."""
    if refused(name, "cross"):
        return
    model = build(name)
    found = prefixed(model, "cross")(input_ids=SOURCE, decoder_input_ids=DECODED).logits
    encoder = model.get_encoder()
    read = [encoder(input_ids=ids).last_hidden_state for ids in (TEXT.expand(2, -1), SOURCE)]
    both = BaseModelOutput(last_hidden_state=torch.cat(read, dim=1))
    mask = torch.ones(2, P + 4, dtype=torch.long)
    expected = model(encoder_outputs=both, attention_mask=mask, decoder_input_ids=DECODED).logits
    close(found, expected)


@EVERY
@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding(name: str, attention: str) -> None:
    """A padded row gets what it gets alone, on the right, and on the left where positions allow."""
    if refused(name, *all_parts(name)):
        return
    model = build(name)
    model.set_attn_implementation(attention)
    tuned = randomly(model)
    extra = {"decoder_input_ids": DECODED[:1]} if name in ENCODER_DECODERS else {}
    alone = tuned(input_ids=SOURCE[:1, :3], **extra).logits
    # Classifiers read their first token, which on the left would be padding.
    learned = "position" in str(model.state_dict().keys())
    sides = ["right"] if learned or name in ENCODERS else ["right", "left"]
    for side in sides:
        at = slice(0, 3) if side == "right" else slice(2, 5)
        ids, mask = torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 5, dtype=torch.long)
        ids[0, at], mask[0, at] = SOURCE[0, :3], 1
        ids[1], mask[1] = torch.arange(80, 85), 1
        both = {k: v.expand(2, -1) for k, v in extra.items()}
        close(tuned(input_ids=ids, attention_mask=mask, **both).logits[:1], alone)


@SEQ2SEQ
@torch.no_grad()
@pytest.mark.parametrize("how", [{}, {"num_beams": 3}])
def test_generation(name: str, how: dict[str, Any]) -> None:
    """With the decoder's cache as without it, token for token."""
    parts = ("decoder", "cross") if name == "longt5" else all_parts(name)
    if refused(name, *parts):
        return
    tuned = randomly(build(name), *parts)
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, **how}
    found = tuned.generate(input_ids=SOURCE, **settings)
    assert found.tolist() == tuned.generate(input_ids=SOURCE, use_cache=False, **settings).tolist()
    if not how:
        logits = tuned(input_ids=SOURCE, decoder_input_ids=found[:, :-1]).logits
        # The end of a text is forbidden while it must go on.
        logits[..., tuned.config.eos_token_id] = float("-inf")
        assert logits.argmax(-1).tolist() == found[:, 1:].tolist()


def gradients(tuned: PrefixModel, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    tuned.zero_grad()
    torch.manual_seed(0)
    tuned(**batch).logits.logsumexp(-1).sum().backward()
    return [p.grad.clone() for p in tuned.parameters() if p.grad is not None]


@EVERY
def test_training_step(name: str) -> None:
    """Every part's prefix gets a gradient, the frozen model none; its weights stay to the bit."""
    parts = ("decoder", "cross") if name == "longt5" else all_parts(name)
    if refused(name, *parts):
        return
    model = build(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    tuned = randomly(model, *parts)
    (gradient,) = gradients(tuned, inputs(name))
    width = gradient.shape[1] // len(tuned.kv_shapes) // 2
    # Keys and values of every place; a key that no query tells apart could only be a mistake.
    assert bool((gradient.abs().unflatten(1, (-1, width)).sum((0, 2)) > 0).all())
    torch.optim.SGD(tuned.parameters(), lr=0.1).step()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not [p for p in model.parameters() if p.grad is not None]


@EVERY
def test_gradient_checkpointing(name: str) -> None:
    parts = ("decoder", "cross") if name == "longt5" else all_parts(name)
    if refused(name, *parts):
        return
    tuned = randomly(build(name), *parts).train()
    if name == "albert":
        with pytest.raises(PrefixError, match="has no layers that transformers can recompute"):
            tuned.gradient_checkpointing_enable()
        return
    for module in tuned.frozen_model.modules():
        # Dropout would be drawn anew; whether activations are kept is what is asked.
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for attribute in ("dropout", "activation_dropout", "dropout_p"):
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.0)
    (expected,) = gradients(tuned, inputs(name))
    tuned.gradient_checkpointing_enable()
    (found,) = gradients(tuned, inputs(name))
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


@EVERY
@torch.no_grad()
def test_layer_choice(name: str) -> None:
    """Choosing all layers is choosing none; choosing one leaves the others as they are."""
    parts = ("decoder", "cross") if name == "longt5" else all_parts(name)
    if refused(name, *parts):
        return
    model = build(name)
    batch = inputs(name)
    whole = randomly(model, *parts)
    last = PrefixModel(model, PrefixConfig(P, parts=parts, layers=(1,))).eval()
    last.load_kv_prefix(kv_of(whole))
    assert len(kv_of(last).keys) * 2 == len(kv_of(whole).keys)
    assert float((last(**batch).logits - whole(**batch).logits).abs().max()) > 1e-4
    both = PrefixModel(model, PrefixConfig(P, parts=parts, layers=(0, 1))).eval()
    both.load_kv_prefix(kv_of(whole))
    close(both(**batch).logits, whole(**batch).logits, 0)
    with pytest.raises(PrefixError, match="layers names 2, but the model's layers are 0 to 1"):
        PrefixModel(model, PrefixConfig(P, parts=parts, layers=(2,)))


@SEQ2SEQ
@torch.no_grad()
def test_layer_choice_keeps_relative_positions(name: str) -> None:
    """A layer that shares the first one's table of positions has it without that one's prefix."""
    parts = ("decoder",) if name == "longt5" else ("encoder", "decoder")
    if refused(name, *parts):
        return
    model = build(name)
    for key, parameter in model.named_parameters():
        # The first layers' self-attention adds nothing, so that neither does a prefix in it.
        if re.search(r"block\.0\.layer\.0\.SelfAttention\.o|layers\.0\.self_attn\.out_proj", key):
            parameter.zero_()
    whole = randomly(model, *parts)
    last = PrefixModel(model, PrefixConfig(P, parts=parts, layers=(1,))).eval()
    last.load_kv_prefix(kv_of(whole))
    found = last(**inputs(name)).logits
    close(found, whole(**inputs(name)).logits)
    assert float((found - model(**inputs(name)).logits).abs().max()) > 1e-2


@EVERY
def test_peft_round_trip(name: str, tmp_path: Path) -> None:
    """What is saved here loads in PEFT with equal logits, and what PEFT saves loads here."""
    from peft import PeftModel, PrefixTuningConfig, get_peft_model

    seq2seq = name in ENCODER_DECODERS
    part = "decoder" if seq2seq else "encoder"
    if refused(name, part):
        return
    head = () if seq2seq else ("classifier",)
    batch = inputs(name) | {"attention_mask": torch.ones_like(SOURCE)}
    tuned = randomly(build(name), part, modules_to_save=head)
    with torch.no_grad():
        for parameter in tuned.heads.parameters():
            parameter.add_(0.1)
    if name in ("distilbert", "albert", "modernbert", "nomic_bert"):
        with pytest.raises(PrefixError, match="takes no past_key_values"):
            tuned.save_pretrained(tmp_path)
        return
    tuned.save_pretrained(tmp_path / "ours")
    theirs = PeftModel.from_pretrained(build(name), tmp_path / "ours").eval()
    with torch.no_grad():
        close(theirs(**batch).logits, tuned(**batch).logits)
    # PEFT's own, for as many layers as the model has, not as they are doubled above.
    fresh = get_peft_model(
        build(name),
        PrefixTuningConfig(
            task_type="SEQ_2_SEQ_LM" if seq2seq else "SEQ_CLS",
            num_virtual_tokens=P,
            num_layers=2,
            token_dim=32,
            num_attention_heads=4,
        ),
    ).eval()
    fresh.save_pretrained(tmp_path / "theirs")
    back = PrefixModel.from_pretrained(build(name), tmp_path / "theirs").eval()
    assert back.prefix_config is not None
    assert back.prefix_config.modules_to_save == head
    with torch.no_grad():
        close(back(**batch).logits, fresh(**batch).logits)
        back.save_pretrained(tmp_path / "again")
        again = PeftModel.from_pretrained(build(name), tmp_path / "again").eval()
        close(again(**batch).logits, fresh(**batch).logits)
