"""Tiny random models of every supported architecture, in float32."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from tests import devices

VOCABULARY = 260
WINDOW = 8
"""Sliding windows are shorter than the prefixes of the tests."""

BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
GPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
# Architectures without grouped queries: PEFT would believe a count of key heads in their settings.
UNGROUPED = {k: v for k, v in BASE.items() if k not in ("head_dim", "num_key_value_heads")}
# One layer that slides and one that does not, so that both kinds meet in one model.
SLIDING = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT),
    "opt": (
        "OPT",
        {
            **UNGROUPED,
            "ffn_dim": 48,
            "word_embed_proj_dim": 32,
            "dropout": 0.0,
        },
    ),
    "gpt_neo": (
        "GPTNeo",
        {
            **UNGROUPED,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": WINDOW,
        },
    ),
    "gptj": ("GPTJ", {**GPT, "rotary_dim": 4}),
    "gpt_neox": ("GPTNeoX", UNGROUPED),
    "bloom": ("Bloom", {**GPT, "hidden_size": 32}),
    "mpt": (
        "Mpt",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 256,
            "expansion_ratio": 2,
        },
    ),
    "falcon (multi-query)": ("Falcon", {**UNGROUPED, "multi_query": True, "alibi": False}),
    "falcon (grouped)": (
        "Falcon",
        {**UNGROUPED, "new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False},
    ),
    "falcon (ALiBi)": ("Falcon", {**UNGROUPED, "multi_query": False, "alibi": True}),
    "gpt_bigcode": ("GPTBigCode", GPT),
    "llama": ("Llama", BASE),
    "mistral": ("Mistral", {**BASE, "sliding_window": WINDOW}),
    "mixtral": ("Mixtral", {**BASE, "num_local_experts": 4, "sliding_window": WINDOW}),
    "qwen2": (
        "Qwen2",
        {**BASE, **SLIDING, "use_sliding_window": True, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", BASE),
    "qwen3_moe": ("Qwen3Moe", {**BASE, **EXPERTS}),
    "gemma": ("Gemma", BASE),
    "gemma2": ("Gemma2", {**BASE, **SLIDING, "query_pre_attn_scalar": 8}),
    "gemma3_text": ("Gemma3", {**BASE, **SLIDING, "query_pre_attn_scalar": 8}),
    "phi": ("Phi", UNGROUPED),
    "phi3": ("Phi3", {**BASE, "sliding_window": WINDOW}),
    "stablelm": ("StableLm", BASE),
    "olmo2": ("Olmo2", BASE),
    "olmo3": ("Olmo3", {**BASE, **SLIDING}),
    "starcoder2": ("Starcoder2", {**BASE, "sliding_window": WINDOW}),
    "cohere": ("Cohere", BASE),
    "cohere2": ("Cohere2", {**BASE, **SLIDING}),
    "granite": ("Granite", BASE),
    "smollm3": ("SmolLM3", {**BASE, "no_rope_layers": [1, 0]}),
    "glm4": ("Glm4", BASE),
    "exaone4": ("Exaone4", {**BASE, **SLIDING}),
    "gpt_oss": (
        "GptOss",
        {**BASE, **SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "deepseek_v3": (
        "DeepseekV3",
        {
            **UNGROUPED,
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        },
    ),
}


def with_wide_windows(name: str) -> PreTrainedModel:
    """As `build`, with sliding windows that hide nothing, which is as far as PEFT goes."""
    return build(name, {"sliding_window": 128, "window_size": 128})


def build(name: str, changes: dict[str, Any] | None = None) -> PreTrainedModel:
    """A random model of the architecture, in evaluation mode."""
    family, settings = SETTINGS[name]
    known = {key: value for key, value in (changes or {}).items() if key in settings}
    settings = {**settings, **known}
    config_class: Any = getattr(transformers, f"{family}{_suffix(family)}Config")
    causal: Callable[[Any], PreTrainedModel] = getattr(
        transformers, f"{family}{'LMHeadModel' if family == 'GPT2' else 'ForCausalLM'}"
    )
    torch.manual_seed(0)
    model = causal(config_class(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Biases and sinks start at zero, norms at one: numbers that would hide a mistake.
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(devices.chosen)


def _suffix(family: str) -> str:
    return "Text" if family == "Gemma3" else ""
