"""Images beside the tokens, and models that read something else: exact, or refused by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from pipeline.prefix import PrefixConfig, PrefixError, PrefixModel, kv_prefix_from_tokens
from tests.conftest import tiny_model
from tests.prefix import architectures
from tests.prefix.multimodal import IMAGE, ROWS, SETTINGS, batch, build

P = 12
TEXT = torch.arange(20, 20 + P)
IDS = torch.arange(40, 56).view(ROWS, 8)
EXACT = pytest.mark.parametrize("name", [name for name in SETTINGS if name != "paligemma"])


def prefixed(model: PreTrainedModel) -> PrefixModel:
    tuned = PrefixModel(model, PrefixConfig(P)).eval()
    tuned.load_kv_prefix(kv_prefix_from_tokens(model, TEXT))
    return tuned


def after_text(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same batch with the text before each row."""
    before = {
        "input_ids": TEXT.expand(ROWS, -1),
        "attention_mask": torch.ones(ROWS, P, dtype=torch.long),
        "token_type_ids": torch.zeros(ROWS, P, dtype=torch.long),
        "mm_token_type_ids": torch.zeros(ROWS, P, dtype=torch.long),
    }
    joined = {k: torch.cat([v, given[k]], 1) for k, v in before.items() if k in given}
    return {**given, **joined}


@EXACT
@torch.no_grad()
def test_identity_with_images(name: str) -> None:
    """And with text alone, before and after."""
    model = build(name)
    given = batch(name, IDS)
    expected = model(**after_text(given)).logits[:, P:]
    without = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    plain = model(input_ids=torch.cat([TEXT.expand(ROWS, -1), IDS], 1)).logits[:, P:]
    tuned = prefixed(model)
    torch.testing.assert_close(tuned(**without).logits, plain, rtol=0, atol=1e-4)
    torch.testing.assert_close(tuned(**given).logits, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(tuned(**without).logits, plain, rtol=0, atol=1e-4)
    other = {**given, "pixel_values": given["pixel_values"].flip(0)}
    changed = model(**after_text(other)).logits[:, P:]
    assert float((changed - expected).abs().max()) > 1e-3
    torch.testing.assert_close(tuned(**other).logits, changed, rtol=0, atol=1e-4)
    bare = model(**given).logits
    tuned.detach()
    assert torch.equal(model(**given).logits, bare)


@EXACT
@torch.no_grad()
def test_generation_with_images(name: str) -> None:
    model = build(name)
    given = batch(name, IDS)
    how: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    how |= {"return_dict_in_generate": True, "output_logits": True, "pad_token_id": 0}
    expected = torch.stack(model.generate(**after_text(given), **how).logits)
    found = torch.stack(prefixed(model).generate(**given, **how).logits)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_images_after_padding() -> None:
    """What leads a row moves before the prefix, the image's tokens with it."""
    for name in ("gemma3", "qwen2_vl"):
        model = build(name)
        given = batch(name, IDS)
        pad = 2
        left = {
            key: torch.cat([value.new_zeros(ROWS, pad), value], 1)
            for key, value in given.items()
            if key in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
        }
        tuned = prefixed(model)
        found = tuned(**{**given, **left}).logits[:, pad:]
        torch.testing.assert_close(found, tuned(**given).logits, rtol=0, atol=1e-4)


@torch.no_grad()
def test_cached_decoding_after_an_image() -> None:
    for name in ("gemma3", "qwen2_5_vl"):
        model = build(name)
        given, new = batch(name, IDS), torch.tensor([[30, 31], [32, 33]])
        tuned = prefixed(model)
        cache: Any = tuned.new_cache()
        tuned(**given, past_key_values=cache, use_cache=True)
        mask = torch.cat([given["attention_mask"], torch.ones_like(new)], 1)
        found = tuned(input_ids=new, attention_mask=mask, past_key_values=cache, use_cache=True)
        longer = {"input_ids": torch.cat([given["input_ids"], new], 1), "attention_mask": mask}
        types: dict[str, torch.Tensor] = {
            key: torch.cat([given[key], torch.zeros_like(new)], 1)
            for key in ("token_type_ids", "mm_token_type_ids")
            if key in given
        }
        whole = tuned(**{**given, **longer, **types}).logits[:, -2:]
        torch.testing.assert_close(found.logits, whole, rtol=0, atol=1e-4)


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
    given = batch("llava", IDS)
    tuned = prefixed(model)
    with pytest.raises(PrefixError, match="something else with pixel_values after a prefix than"):
        tuned(**given)
    assert tuned(input_ids=IDS).logits.shape[1] == 8


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
