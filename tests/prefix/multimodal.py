"""Tiny random models that read images beside tokens, with an image in each row of a batch."""

from typing import Any

import torch
import transformers
from transformers import AutoModelForImageTextToText, PreTrainedModel

from tests.prefix.architectures import BASE, SLIDING

VOCABULARY, IMAGE = 97, 90
ROWS, BEFORE, AFTER = 2, 3, 5

TEXT: dict[str, Any] = {**BASE, "vocab_size": VOCABULARY, "pad_token_id": 0}
GEMMA: dict[str, Any] = {**TEXT, **SLIDING, "query_pre_attn_scalar": 8}
GEMMA4: dict[str, Any] = {
    **TEXT,
    **SLIDING,
    "global_head_dim": 16,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "use_bidirectional_attention": "vision",
}
QWEN: dict[str, Any] = {
    **{key: value for key, value in TEXT.items() if key != "head_dim"},
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
}
QWEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": 91,
    "vision_start_token_id": 92,
    "vision_end_token_id": 93,
}
GEMMA4_IDS = {
    **{"image_token_id": IMAGE, "video_token_id": 91, "audio_token_id": 92, "boi_token_id": 93},
    **{"eoi_token_id": 94, "boa_token_id": 95, "eoa_token_index": 96, "audio_config": None},
}
SIGLIP: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
}
CLIP = {**SIGLIP, "model_type": "clip_vision_model", "projection_dim": 32}
GRID: dict[str, Any] = {"depth": 1, "hidden_size": 32, "num_heads": 4, "patch_size": 4}

# The settings beside the text's and the vision tower's, and which kind of image it takes.
SETTINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "llava": (
        "Llava",
        {"image_token_index": IMAGE, "image_seq_length": 4},
        {"model_type": "llama", **TEXT},
        CLIP,
        "pixels",
    ),
    "gemma3": (
        "Gemma3",
        {
            "image_token_index": IMAGE,
            "mm_tokens_per_image": 4,
            "boi_token_index": 91,
            "eoi_token_index": 92,
        },
        {"model_type": "gemma3_text", **GEMMA},
        SIGLIP,
        "types",
    ),
    "gemma4": (
        "Gemma4",
        GEMMA4_IDS,
        {"model_type": "gemma4_text", **GEMMA4},
        {
            "model_type": "gemma4_vision",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "position_embedding_size": 16,
        },
        "patches",
    ),
    "qwen2_vl": (
        "Qwen2VL",
        QWEN_IDS,
        {"model_type": "qwen2_vl_text", **QWEN},
        {**GRID, "embed_dim": 32},
        "grid",
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VL",
        QWEN_IDS,
        {"model_type": "qwen2_5_vl_text", **QWEN},
        {
            **GRID,
            "out_hidden_size": 32,
            "intermediate_size": 48,
            "window_size": 16,
            "fullatt_block_indexes": [0],
        },
        "grid",
    ),
    "paligemma": (
        "PaliGemma",
        {"image_token_index": IMAGE, "projection_dim": 32, "hidden_size": 32},
        {"model_type": "gemma", **TEXT},
        SIGLIP,
        "types",
    ),
}


def build(name: str) -> PreTrainedModel:
    """A random model of the architecture, in evaluation mode."""
    family, settings, text, vision, _ = SETTINGS[name]
    config_class: Any = getattr(transformers, f"{family}Config")
    torch.manual_seed(0)
    config = config_class(**settings, text_config=text, vision_config=vision)
    model: PreTrainedModel = AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            # Large enough that attention and positions show in the logits.
            if parameter.ndim == 2 and "vision" not in key and "visual" not in key:
                parameter.normal_(0, 0.2)
    return model


def batch(name: str, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Rows of ids `[2, 8]` with an image of four tokens after the first three of each."""
    kind = SETTINGS[name][4]
    draw = torch.Generator().manual_seed(3)
    image = torch.full((ROWS, 4), IMAGE)
    tokens = torch.cat([ids[:, :BEFORE], image, ids[:, BEFORE:]], dim=1)
    given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    types = (tokens == IMAGE).long()
    if kind == "grid":
        pixels = torch.randn(ROWS * 16, 3 * 2 * 16, generator=draw)
        given |= {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 4]] * ROWS)}
        return {**given, "mm_token_type_ids": types}
    if kind == "patches":
        where = torch.tensor([[i % 4, i // 4] for i in range(16)])
        given["pixel_values"] = torch.randn(ROWS, 16, 48, generator=draw).sigmoid()
        given["image_position_ids"] = where.expand(ROWS, -1, -1).clone()
        return {**given, "mm_token_type_ids": types}
    given["pixel_values"] = torch.randn(ROWS, 3, 8, 8, generator=draw)
    return {**given, "token_type_ids": types} if kind == "types" else given
