"""Images beside the tokens, and models that read something else: exact, or refused by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from pipeline.prefix import PrefixConfig, PrefixError, PrefixModel, kv_prefix_from_tokens
from pipeline.prefix.starts.prefill import prefilled
from tests.conftest import tiny_model
from tests.prefix import architectures
from tests.prefix.multimodal import IMAGE, LAYOUTS, SETTINGS, batch, build

P = 12
TEXT = list(range(20, 20 + P))
PLAIN = {"input_ids": torch.arange(40, 56).view(2, 8)}
# The first looks ahead in its prompt, and the second's states bear no padding.
OTHERS = ("paligemma", "qwen3_5")
EXACT = pytest.mark.parametrize("name", [name for name in SETTINGS if name not in OTHERS])
GREEDY: dict[str, Any] = {
    **{"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0},
    **{"return_dict_in_generate": True, "output_logits": True},
}


def prefixed(model: PreTrainedModel) -> PrefixModel:
    tuned = PrefixModel(model, PrefixConfig(P)).eval()
    tuned.load_kv_prefix(kv_prefix_from_tokens(model, TEXT))
    return tuned


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@EXACT
@torch.no_grad()
def test_identity_with_images(name: str) -> None:
    """In some rows or all, several, first in a row, and with text alone before and after."""
    model = build(name)
    text = torch.tensor(TEXT).expand(2, -1)
    plain = model(input_ids=torch.cat([text, PLAIN["input_ids"]], 1)).logits[:, P:]
    bare = model(**batch(name)).logits
    tuned = prefixed(model)
    assert_same(tuned(**PLAIN).logits, plain)
    for layout in LAYOUTS:
        given, whole = batch(name, layout), batch(name, layout, TEXT)
        seen = given["attention_mask"].bool()
        expected = model(**whole).logits[:, P:][seen]
        assert_same(tuned(**given).logits[seen], expected)
        other = whole["pixel_values"] ** 2
        changed = model(**{**whole, "pixel_values": other}).logits[:, P:][seen]
        assert float((changed - expected).abs().max()) > 1e-3
        assert_same(tuned(**{**given, "pixel_values": other}).logits[seen], changed)
    assert_same(tuned(**PLAIN).logits, plain)
    tuned.detach()
    assert torch.equal(model(**batch(name)).logits, bare)


@EXACT
@torch.no_grad()
def test_generation_with_images(name: str) -> None:
    model = build(name)
    tuned = prefixed(model)
    for layout in LAYOUTS[1:]:
        found = tuned.generate(**batch(name, layout), **GREEDY)
        expected = model.generate(**batch(name, layout, TEXT), **GREEDY)
        assert_same(torch.stack(found.logits), torch.stack(expected.logits))


@torch.no_grad()
def test_images_after_states() -> None:
    model = build("qwen3_5")
    tuned = prefixed(model)
    given, whole = batch("qwen3_5"), batch("qwen3_5", text=TEXT)
    assert_same(tuned(**given).logits, model(**whole).logits[:, P:])
    found, expected = tuned.generate(**given, **GREEDY), model.generate(**whole, **GREEDY)
    assert_same(torch.stack(found.logits), torch.stack(expected.logits))
    with pytest.raises(PrefixError, match="pixel_values cannot be cut into groups; give rows"):
        tuned(**batch("qwen3_5", LAYOUTS[1]))


@torch.no_grad()
def test_cached_decoding_after_an_image() -> None:
    """From the cache of one conversation, whatever was said in another meanwhile."""
    for name in ("gemma3", "qwen2_5_vl"):
        model = build(name)
        given, new = batch(name), torch.tensor([[30, 31], [32, 33]])
        tuned = prefixed(model)
        cache: Any = tuned.new_cache()
        tuned(**given, past_key_values=cache, use_cache=True)
        tuned.generate(**batch(name, LAYOUTS[1]), **GREEDY)
        mask = torch.cat([given["attention_mask"], torch.ones_like(new)], 1)
        found = tuned(input_ids=new, attention_mask=mask, past_key_values=cache, use_cache=True)
        longer = {"input_ids": torch.cat([given["input_ids"], new], 1), "attention_mask": mask}
        types: dict[str, torch.Tensor] = {
            key: torch.cat([given[key], torch.zeros_like(new)], 1)
            for key in ("token_type_ids", "mm_token_type_ids")
            if key in given
        }
        whole = tuned(**{**given, **longer, **types}).logits[:, -2:]
        assert_same(found.logits, whole)


@torch.no_grad()
def test_a_conversation_goes_on_after_its_own_image() -> None:
    """A generation from a cache, its image's positions told from another's and from a text's."""
    model = build("qwen2_5_vl")
    tuned = prefixed(model)
    given = batch("qwen2_5_vl", ("--I--",))
    cache: Any = tuned.new_cache()
    first = tuned.generate(**given, **GREEDY, past_key_values=cache)
    tuned.generate(**PLAIN, **GREEDY)
    new = torch.cat([first.sequences, torch.tensor([[30, 31, 32]])], 1)
    found = tuned.generate(input_ids=new, **GREEDY, past_key_values=cache)
    types = nn.functional.pad(given["mm_token_type_ids"], (0, new.shape[1] - 9))
    whole = {**given, "input_ids": new, "attention_mask": torch.ones_like(new)}
    expected = tuned.generate(**{**whole, "mm_token_type_ids": types}, **GREEDY)
    assert_same(torch.stack(found.logits), torch.stack(expected.logits))


@torch.no_grad()
def test_an_image_leaves_nothing_behind() -> None:
    """Neither of ours to the bare model, nor of the bare model to a text's cache."""
    model = build("qwen2_vl")
    part: Any = model.model
    tuned = prefixed(model)
    tuned.generate(**batch("qwen2_vl"), **GREEDY)
    assert part.rope_deltas is None
    assert "get_rope_index" not in vars(part)
    expected = prefilled(model, torch.arange(20, 60)).layers[1].keys
    model.generate(**batch("qwen2_vl"), **GREEDY)
    left = part.rope_deltas
    assert left is not None
    found = prefilled(model, torch.arange(20, 60), piece=15).layers[1].keys
    assert_same(found, expected)
    assert part.rope_deltas is left
    assert tuned.why_not_packed(tokens=9) is None
    ids = torch.arange(30, 39)
    alone = tuned(input_ids=ids[None]).logits[0]
    assert_same(tuned.packed_logits(ids, [9], torch.arange(9)), alone)


@torch.no_grad()
def test_half_precision_does_not_hide_what_types_change() -> None:
    """Late in a long row, where few tokens show that types were left where they stood."""
    model = build("gemma3").to(torch.bfloat16)
    rows = ("-" * 30 + "I--",) * 2
    given, whole = batch("gemma3", rows), batch("gemma3", rows, TEXT)
    expected, found = model(**whole).logits[:, P:], prefixed(model)(**given).logits
    assert float((found - expected).norm() / expected.norm()) < 0.02


@torch.no_grad()
def test_positions_that_begin_after_the_padding_token_s_index() -> None:
    """KOSMOS-2.5's, which are refused where transformers' own generation counts others."""
    torch.manual_seed(0)
    config = transformers.Kosmos2_5Config(text_config=KOSMOS, vision_config=SMALL)
    model: PreTrainedModel = transformers.Kosmos2_5ForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.normal_(0, 0.2)
    ids = torch.arange(40, 48)[None]
    text = torch.tensor([TEXT])
    expected = model(input_ids=torch.cat([text, ids], 1)).logits[:, P:]
    assert float((model(input_ids=ids).logits - expected).abs().max()) > 1e-2
    tuned = prefixed(model)
    assert_same(tuned(input_ids=ids).logits, expected)
    padded = {"input_ids": nn.functional.pad(ids, (2, 0), value=1)}
    padded["attention_mask"] = (padded["input_ids"] != 1).long()
    assert_same(tuned(**padded).logits[:, 2:], expected)
    found = tuned.generate(**padded, **GREEDY)
    alone = model.generate(input_ids=torch.cat([text, ids], 1), **GREEDY)
    assert_same(torch.stack(found.logits), torch.stack(alone.logits))


def test_an_image_that_a_prefix_cannot_stand_before_is_refused() -> None:
    """By the names of what was given; tokens alone are served still."""

    class Counting(transformers.LlavaForConditionalGeneration):
        """A model whose images are read by their place from the beginning of the text."""

        def forward(self, input_ids: Any = None, **given: Any) -> Any:
            output = super().forward(input_ids=input_ids, **given)
            if given.get("pixel_values") is not None:
                place = (input_ids == IMAGE).long().argmax(-1).float()
                output.logits = output.logits + place[:, None, None]
            return output

    plain = build("llava")
    model = Counting(plain.config).eval()
    model.load_state_dict(plain.state_dict())
    tuned = prefixed(model)
    with pytest.raises(PrefixError, match="something else with pixel_values after a prefix than"):
        tuned(**batch("llava"))
    assert tuned(**PLAIN).logits.shape[1] == 8


SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
SPEECH: dict[str, Any] = {
    **{"vocab_size": 100, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48},
    **{"decoder_ffn_dim": 48, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    **{"decoder_start_token_id": 1},
}
TOWER: dict[str, Any] = {**SMALL, "image_size": 8, "patch_size": 4}
WORDS: dict[str, Any] = {
    **SMALL,
    **{"vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
KOSMOS: dict[str, Any] = {
    **{"vocab_size": 100, "embed_dim": 32, "ffn_dim": 48, "layers": 2, "attention_heads": 4},
    **{"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "speech": (
        lambda: transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**SPEECH)),
        "WhisperForConditionalGeneration reads input_features, not input_ids",
    ),
    "images": (
        lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**TOWER)),
        "ViTForImageClassification reads pixel_values, not input_ids",
    ),
    "both at once": (
        lambda: transformers.CLIPModel(
            transformers.CLIPConfig(text_config=WORDS, vision_config=TOWER)
        ),
        "CLIPModel does not run on tokens and a plain KV cache alone",
    ),
    "a prompt that looks ahead": (
        lambda: build("paligemma"),
        "PaliGemmaForConditionalGeneration computes something else after a prefix",
    ),
    "an embedding model made of a decoder": (
        lambda: architectures.build("gemma3_text", {}).__class__(
            transformers.Gemma3TextConfig(
                **architectures.BASE, query_pre_attn_scalar=8, use_bidirectional_attention=True
            )
        ),
        "Gemma3ForCausalLM computes something else after a prefix",
    ),
    "an encoder's language modelling head": (
        lambda: transformers.BertLMHeadModel(transformers.BertConfig(**WORDS)),
        "BertLMHeadModel computes something else after a prefix",
    ),
    "positions that begin after the padding token's index": (
        lambda: transformers.RobertaForCausalLM(
            transformers.RobertaConfig(**{**WORDS, "pad_token_id": 1}, is_decoder=True)
        ),
        "RobertaForCausalLM computes something else after a prefix",
    ),
    "states that are used for single tokens alone": (
        lambda: transformers.MambaForCausalLM(
            transformers.MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2)
        ),
        "MambaForCausalLM reads several tokens at once without its recurrent state",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_exact_place_is_refused(kind: str) -> None:
    make, sentence = REFUSED[kind]
    torch.manual_seed(0)
    model = make().eval()
    with pytest.raises(PrefixError, match=sentence):
        PrefixModel(model, PrefixConfig(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_no_reason_to_refuse(dtype: torch.dtype) -> None:
    for seed in range(3):
        PrefixModel(tiny_model(seed).to(dtype), PrefixConfig(3))
    for name in ("gpt2", "gemma3_text", "mixtral", "gpt_oss", "deepseek_v3", "bloom"):
        PrefixModel(architectures.build(name).to(dtype), PrefixConfig(3))
