"""Tiny random models whose attention chooses among the keys before it, by index keys of its own.

An index is smaller than the prefixes of the tests, so that what it chooses shows.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from tests import devices
from tests.prefix.architectures import VOCABULARY

CHOSEN = 6
"""Keys that a query attends to."""

BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
# Multi-head latent attention, whose cache holds a latent and a rotated part.
LATENT: dict[str, Any] = {
    **BASE,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "index_n_heads": 8,
    "index_head_dim": 16,
    "index_topk": CHOSEN,
}
# The last two layers take over what the second has chosen.
SHARED = {"indexer_types": ["full", "full", "shared", "shared"]}


def _latent(family: str, **more: Any) -> Any:
    return getattr(transformers, f"{family}Config")(**{**LATENT, **more})


def _mistral_large4() -> Any:
    """Its third layer has index keys of its own, and the first one's keys and values."""
    text = _latent(
        "MistralLarge4Text",
        indexer_types=["full", "shared", "full", "shared"],
        no_rope_layers=[1, 1, 1, 0],
        kv_source_layers=[0, 1, 0, 3],
    )
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 4, "image_size": 32, "patch_size": 4, "head_dim": 8}
    return transformers.MistralLarge4Config(
        text_config=text, vision_config={"model_type": "pixtral", **vision}
    )


def _minimax_m3() -> Any:
    return transformers.MiniMaxM3VLTextConfig(
        **BASE,
        num_key_value_heads=2,
        head_dim=8,
        rotary_dim=4,
        dense_intermediate_size=48,
        shared_intermediate_size=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        layer_types=["minimax_m3_sparse", "full_attention"] * 2,
        mlp_layer_types=["dense", "sparse"] * 2,
        index_n_heads=2,
        index_head_dim=8,
        index_block_size=4,
        index_topk_blocks=2,
    )


def _qwen4_exp() -> Any:
    """Layers that recur, and layers whose index keeps positions and pools its keys."""
    return transformers.Qwen4ExpTextConfig(
        **BASE,
        num_key_value_heads=2,
        head_dim=8,
        shared_expert_intermediate_size=16,
        num_experts=4,
        num_experts_per_tok=2,
        layer_types=["linear_attention", "indexed_attention"] * 2,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        hc_count=2,
        hc_lowrank=8,
        ple_layer_ids=[1],
        ple_embed_dim=32,
        ngram_size=3,
        heads_per_ngram=2,
        ngram_vocab_size_base=50,
        make_ngram_vocab_size_divisible_by=4,
        split_ngram_parts=1,
        indexer_n_heads=8,
        indexer_kv_heads=1,
        indexer_head_dim=8,
        indexer_budget=4,
        indexer_compress_ratio=2,
    )


def qwen4_exp() -> PreTrainedModel:
    """A random hybrid with an index."""
    return _drawn(transformers.AutoModelForCausalLM.from_config(_qwen4_exp()))


CONFIGURATIONS: dict[str, Callable[[], Any]] = {
    "deepseek_v32": lambda: _latent("DeepseekV32", first_k_dense_replace=1),
    "glm_moe_dsa": lambda: _latent("GlmMoeDsa", first_k_dense_replace=1, **SHARED),
    "axk2": lambda: _latent("AXK2", gated_norm_rank=8),
    "hy_v4": lambda: _latent("HYV4", hc_mult=2, **SHARED),
    "dots3_note_text": lambda: _latent(
        "Dots3NoteText",
        layer_types=["indexed_attention", "sliding_attention"] * 2,
        sliding_window=8,
        head_dim=16,
        swa_num_attention_heads=4,
        swa_num_key_value_heads=4,
        swa_q_lora_rank=16,
        swa_kv_lora_rank=16,
        swa_head_dim=16,
        swa_qk_nope_head_dim=8,
        swa_v_head_dim=8,
    ),
    "mistral_large4": _mistral_large4,
    "minimax_m3_vl_text": _minimax_m3,
}


def build(name: str) -> PreTrainedModel:
    """A random model, in evaluation mode, of weights that let its index choose differently."""
    torch.manual_seed(0)
    config = CONFIGURATIONS[name]()
    auto: Any = transformers.AutoModelForCausalLM
    if name == "mistral_large4":
        auto = transformers.AutoModelForImageTextToText
    return _drawn(auto.from_config(config))


def _drawn(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif parameter.ndim == 2:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.eval().to(devices.chosen)
