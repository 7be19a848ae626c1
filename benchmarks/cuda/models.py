"""Models of random weights in the shapes of Llama 3, made where they are to compute."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

_ROPE = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_LLAMA_3: dict[str, Any] = {
    "vocab_size": 128256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
SHAPES: dict[str, dict[str, Any]] = {
    "Llama-3.2-1B": {
        **_LLAMA_3,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "head_dim": 64,
        "tie_word_embeddings": True,
        "rope_scaling": {**_ROPE, "factor": 32.0},
    },
    "Llama-3.1-8B": {
        **_LLAMA_3,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "head_dim": 128,
        "tie_word_embeddings": False,
        "rope_scaling": {**_ROPE, "factor": 8.0},
    },
}
_MINIATURE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def config_of(shape: str, small: bool, layers: int | None = None) -> LlamaConfig:
    """A shape's configuration; `small`: its miniature; `layers`: so many at most."""
    numbers = {**SHAPES[shape], **(_MINIATURE if small else {})}
    depth = min(numbers["num_hidden_layers"], layers or numbers["num_hidden_layers"])
    return LlamaConfig(**{**numbers, "num_hidden_layers": depth})


def build(config: LlamaConfig, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """A frozen model of seeded random weights, in evaluation mode; no copy on the CPU is made."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.generation_config.eos_token_id = None
    frozen: PreTrainedModel = model.requires_grad_(False).eval()
    return frozen
