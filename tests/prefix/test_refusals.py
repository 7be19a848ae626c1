"""Architectures with no exact place for a prefix: each is refused in one sentence, with its reason.

It names the class of the model. Nothing that a model raises while it is tried comes out as it is.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from pipeline.prefix import PrefixConfig, PrefixError, PrefixModel, kv_prefix_from_tokens
from tests.prefix.indexed import BASE
from tests.prefix.test_architectures import padded, prefixed, tokens

GPT: dict[str, Any] = {"vocab_size": 260, "n_embd": 32, "n_layer": 2, "n_head": 4}
COMPRESSED = ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"]


def git() -> PreTrainedModel:
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 4, "image_size": 8, "patch_size": 4}
    config = transformers.GitConfig(vision_config=vision, **_without("moe_intermediate_size"))
    model = transformers.GitForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                # So large that attention shows.
                parameter.mul_(10)
    return model


def _without(*names: str) -> dict[str, Any]:
    return {key: value for key, value in BASE.items() if key not in names}


def openai_gpt() -> PreTrainedModel:
    return transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**GPT))


def xlnet() -> PreTrainedModel:
    settings = {"vocab_size": 260, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}
    return transformers.XLNetLMHeadModel(transformers.XLNetConfig(**settings))


def rwkv() -> PreTrainedModel:
    settings = {"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2}
    return transformers.RwkvForCausalLM(transformers.RwkvConfig(**settings))


def recurrent_gemma() -> PreTrainedModel:
    settings = _without("moe_intermediate_size", "max_position_embeddings")
    settings |= {"block_types": ["recurrent", "attention"], "lru_width": 32}
    config = transformers.RecurrentGemmaConfig(**settings, attention_window_size=8)
    return transformers.RecurrentGemmaForCausalLM(config)


def reformer() -> PreTrainedModel:
    config = transformers.ReformerConfig(
        vocab_size=260,
        is_decoder=True,
        attn_layers=["local", "lsh"],
        axial_pos_embds=False,
        num_buckets=2,
        hidden_size=32,
        num_attention_heads=4,
        attention_head_size=8,
        feed_forward_size=48,
        max_position_embeddings=64,
    )
    return transformers.ReformerModelWithLMHead(config)


def cpmant() -> PreTrainedModel:
    config = transformers.CpmAntConfig(
        vocab_size=260,
        hidden_size=32,
        num_attention_heads=4,
        dim_head=8,
        dim_ff=48,
        num_hidden_layers=2,
        prompt_length=4,
    )
    return transformers.CpmAntForCausalLM(config)


def minimax() -> PreTrainedModel:
    config = transformers.MiniMaxConfig(
        **_without("moe_intermediate_size"),
        head_dim=8,
        num_key_value_heads=2,
        num_local_experts=4,
        layer_types=["linear_attention", "full_attention"] * 2,
    )
    return transformers.MiniMaxForCausalLM(config)


def deepseek_v4() -> PreTrainedModel:
    config = transformers.DeepseekV4Config(
        **{**BASE, "num_hidden_layers": 3},
        num_key_value_heads=1,
        head_dim=16,
        partial_rotary_factor=0.5,
        q_lora_rank=16,
        o_lora_rank=8,
        o_groups=2,
        n_routed_experts=4,
        num_experts_per_tok=2,
        layer_types=COMPRESSED,
        mlp_layer_types=["moe"] * 3,
        compress_rates={COMPRESSED[1]: 2, COMPRESSED[2]: 4},
        index_n_heads=8,
        index_head_dim=16,
        index_topk=3,
        sliding_window=8,
        hc_mult=2,
        num_nextn_predict_layers=0,
    )
    return transformers.DeepseekV4ForCausalLM(config)


def blt() -> PreTrainedModel:
    part = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    part |= {"intermediate_size": 48, "vocab_size": 260, "num_key_value_heads": 4}
    names = ("patcher_config", "encoder_config", "decoder_config", "global_config")
    config = transformers.BltConfig(
        vocab_size=260, encoder_hash_byte_group_vocab=50, **dict.fromkeys(names, part)
    )
    return transformers.BltForCausalLM(config)


REFUSED = {
    openai_gpt: "does not keep keys and values of every layer in a KV cache",
    xlnet: "does not keep keys and values of every layer in a KV cache",
    rwkv: "does not keep keys and values of every layer in a KV cache",
    recurrent_gemma: "does not keep keys and values of every layer in a KV cache",
    reformer: "does not keep keys and values of every layer in a KV cache",
    cpmant: "computes something else after .* it puts 4 tokens of its own before every input, so",
    minimax: "uses cache of its own and is not compatible .* of type DynamicCache",
    deepseek_v4: "besides keys and values, which a prefix does not carry",
    blt: "does not run on tokens and a plain KV cache alone",
}


@pytest.mark.parametrize("make", REFUSED)
def test_a_refusal_is_one_sentence_that_names_the_model_and_the_reason(
    make: Callable[[], PreTrainedModel],
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    with pytest.raises(PrefixError, match=REFUSED[make]) as refused:
        PrefixModel(model, PrefixConfig(num_virtual_tokens=4))
    assert type(model).__name__ in str(refused.value)
    assert "\n" not in str(refused.value)
    if make is not cpmant:  # which keeps a text's keys and values, and cannot go on from them
        with pytest.raises(PrefixError) as refused:
            kv_prefix_from_tokens(model, tokens(4, 0))
        assert type(model).__name__ in str(refused.value)
        if make is deepseek_v4:
            assert REFUSED[make] in str(refused.value)


def test_a_model_whose_own_code_stumbles_is_told_by_where() -> None:
    settings = _without("moe_intermediate_size")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).eval()
    model.model.norm = None
    with pytest.raises(PrefixError, match=r"\(TypeError in its own code, modeling_llama.py\), so"):
        PrefixModel(model, PrefixConfig(num_virtual_tokens=4))


@torch.no_grad()
def test_a_model_that_passes_its_cache_by_position_is_exact() -> None:
    torch.manual_seed(0)
    model, text, rows = git().eval(), tokens(12, 0), [tokens(9, 1), tokens(5, 2)]
    tuned = prefixed(model, text)
    # Padded on the left too, though it widens a mask by an image's tokens once it has a cache.
    for batch in (padded(rows, "left"), padded(rows, "right")):
        found = tuned(**batch).logits
        for logits, mask, row in zip(found, batch["attention_mask"], rows, strict=True):
            expected = model(input_ids=torch.cat([text, row])[None]).logits[0, 12:]
            torch.testing.assert_close(logits[mask.bool()], expected, rtol=0, atol=1e-4)
    one = prefixed(model, text, layers=(1,))
    assert float((one(input_ids=rows[0][None]).logits - expected[:1]).abs().max()) > 1e-3
