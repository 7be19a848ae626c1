"""Tiny random models with recurrent layers, in float32, and what each is told by."""

import re
from functools import cache
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

VOCABULARY = 97
WINDOW = 8

BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PLAIN = {name: value for name, value in BASE.items() if name != "head_dim"}
TURNS = {"layer_types": ["linear_attention", "full_attention"]}
CONV = {"layer_types": ["conv", "full_attention"]}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 4,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
}
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
}
BLOCKS = {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2}
INKLING = {
    "sliding_window": WINDOW,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
    "d_rel": 4,
    "rel_extent": 16,
    "layer_types": ["hybrid_sliding", "hybrid"],
    "unpadded_vocab_size": VOCABULARY,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
}

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_next": ("Qwen3Next", {**BASE, **TURNS, **DELTA, **EXPERTS}),
    "qwen3_5": ("Qwen3_5", {**BASE, **TURNS, **DELTA}),
    "lfm2": ("Lfm2", {**PLAIN, **CONV}),
    "lfm2_moe": ("Lfm2Moe", {**PLAIN, **CONV, **EXPERTS, "num_dense_layers": 1}),
    "lfm3": (
        "Lfm3",
        {
            **PLAIN,
            "num_hidden_layers": 3,
            "layer_types": ["conv", "sliding_attention", "full_attention"],
            "sliding_window": WINDOW,
        },
    ),
    "mamba2": (
        "Mamba2",
        {**BASE, "num_heads": 8, "state_size": 8, "chunk_size": 8, "n_groups": 1},
    ),
    "bamba": ("Bamba", {**PLAIN, **MAMBA, "attn_layer_indices": [1]}),
    "granitemoehybrid": (
        "GraniteMoeHybrid",
        {**PLAIN, **TURNS, **MAMBA, "num_local_experts": 4, "shared_intermediate_size": 16},
    ),
    "falcon_h1": ("FalconH1", {**BASE, **MAMBA, "mamba_d_ssm": 64}),
    "nemotron_h": (
        "NemotronH",
        {
            **{name: value for name, value in BASE.items() if name != "num_hidden_layers"},
            "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "ssm_state_size": 8,
            "chunk_size": 8,
            "n_groups": 1,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "moe_shared_expert_intermediate_size": 16,
        },
    ),
    "zamba2": (
        "Zamba2",
        {
            **PLAIN,
            **BLOCKS,
            "num_mem_blocks": 1,
            "use_mem_rope": True,
            "num_key_value_heads": 4,
            "mamba_d_state": 8,
            "n_mamba_heads": 8,
            "mamba_headdim": 8,
            "chunk_size": 8,
        },
    ),
    "inkling": ("Inkling", {**BASE, **INKLING, "mlp_layer_types": ["dense", "sparse"]}),
    "inkling2": ("Inkling2", {**BASE, **INKLING, "n_layers_per_attn_res_block": 2}),
    "zaya": (
        "Zaya",
        {
            **BASE,
            "layer_types": ["hybrid_sliding", "hybrid"],
            "sliding_window": WINDOW,
            "num_experts": 4,
            "num_experts_per_tok": 1,
            "router_hidden_size": 16,
            "moe_intermediate_size": 16,
        },
    ),
    "kimi_linear": (
        "KimiLinear",
        {**PLAIN, **TURNS, **EXPERTS, **LATENT, "mlp_layer_types": ["dense", "sparse"]},
    ),
    "bailing_hybrid": (
        "BailingHybrid",
        {**PLAIN, **TURNS, **EXPERTS, **LATENT, "layer_group_size": 2},
    ),
    "olmo_hybrid": ("OlmoHybrid", {**PLAIN, **TURNS, **DELTA}),
}

SINGLE_TOKENS: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("Mamba", {**BASE, "state_size": 8}),
    "falcon_mamba": ("FalconMamba", {**BASE, "state_size": 8}),
    "jamba": (
        "Jamba",
        {
            **PLAIN,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
            "num_experts": 4,
        },
    ),
    "zamba": (
        "Zamba",
        {
            **PLAIN,
            **BLOCKS,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_dt_rank": 4,
            "n_mamba_heads": 2,
            "num_key_value_heads": 4,
            "mamba_d_state": 8,
        },
    ),
}
"""Models whose states are used for single tokens alone."""


@cache
def build(name: str) -> PreTrainedModel:
    """A model of `SETTINGS` or `SINGLE_TOKENS`, made once, whose states show in its logits."""
    family, settings = {**SETTINGS, **SINGLE_TOKENS}[name]
    kind = "TextConfig" if hasattr(transformers, f"{family}TextConfig") else "Config"
    config = getattr(transformers, f"{family}{kind}")(**settings)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    kept = re.compile(r"A_log|conv|dt_bias|correction")
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if kept.search(parameter_name):
                continue
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model
