"""Tiny random models with recurrent layers, beside attention in other layers or in the same."""

import torch
from transformers import (
    FalconH1Config,
    FalconH1ForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    PreTrainedModel,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

_SIZES = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}


def lfm2() -> PreTrainedModel:
    """Short convolutions and attention, in layers of their own."""
    torch.manual_seed(0)
    layers = ["conv", "full_attention", "conv"]
    config = Lfm2Config(**_SIZES, num_hidden_layers=3, layer_types=layers)
    return _drawn(Lfm2ForCausalLM(config))


def qwen3_next() -> PreTrainedModel:
    """A gated delta rule and attention, in layers of their own."""
    torch.manual_seed(0)
    config = Qwen3NextConfig(
        **_SIZES,
        num_hidden_layers=3,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        head_dim=8,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        mlp_only_layers=[0, 1, 2],
    )
    return _drawn(Qwen3NextForCausalLM(config))


def falcon_h1() -> PreTrainedModel:
    """A state-space model and attention beside each other in every layer."""
    torch.manual_seed(0)
    config = FalconH1Config(
        **_SIZES,
        num_hidden_layers=2,
        mamba_d_ssm=32,
        mamba_n_heads=4,
        mamba_d_state=8,
        mamba_chunk_size=8,
    )
    return _drawn(FalconH1ForCausalLM(config))


def mamba2() -> PreTrainedModel:
    """A state-space model alone: no layer attends."""
    torch.manual_seed(0)
    config = Mamba2Config(
        **_SIZES,
        num_hidden_layers=2,
        num_heads=8,
        head_dim=8,
        state_size=8,
        chunk_size=8,
        n_groups=1,
    )
    return _drawn(Mamba2ForCausalLM(config))


HYBRIDS = {"lfm2": lfm2, "qwen3_next": qwen3_next, "falcon_h1": falcon_h1}


@torch.no_grad()
def _drawn(model: PreTrainedModel) -> PreTrainedModel:
    """Weights large enough that what a model remembers changes what it says."""
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.copy_(noise * parameter.shape[-1] ** -0.5)
    return model.eval()
