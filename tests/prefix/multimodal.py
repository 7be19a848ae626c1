"""Tiny random models that read images beside tokens, and batches of rows with images in them."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch.nn.functional import pad
from transformers import AutoModelForImageTextToText, PreTrainedModel

from tests.prefix.architectures import BASE, EXPERTS, SLIDING, WINDOW

VOCABULARY, IMAGE, START = 97, 90, 92

# Rows of a batch, written as text and images: `-` for a token of text, `I` for an image.
LAYOUTS = (("---I-----", "---I-----"), ("I--", "-----I----I-"), ("--I---", "----"))

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
QWEN3: dict[str, Any] = {
    **{**GRID, "out_hidden_size": 32, "intermediate_size": 48, "num_position_embeddings": 16},
    "deepstack_visual_indexes": [0],
}
SECTIONS: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
PIXTRAL = {**SIGLIP, "model_type": "pixtral", "image_size": 32, "head_dim": 8}
LARGE = {key: value for key, value in SIGLIP.items() if key != "model_type"} | {"image_size": 16}

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
    "qwen3_vl": (
        "Qwen3VL",
        QWEN_IDS,
        {"model_type": "qwen3_vl_text", **TEXT, "rope_parameters": SECTIONS},
        QWEN3,
        "grid",
    ),
    "qwen3_vl_moe": (
        "Qwen3VLMoe",
        QWEN_IDS,
        {"model_type": "qwen3_vl_moe_text", **TEXT, **EXPERTS, "rope_parameters": SECTIONS},
        QWEN3,
        "grid",
    ),
    "qwen3_5": (
        "Qwen3_5",
        QWEN_IDS,
        {
            **{"model_type": "qwen3_5_text", **TEXT},
            "layer_types": ["linear_attention", "full_attention"],
            **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
            **{"linear_key_head_dim": 8, "linear_value_head_dim": 8},
            "rope_parameters": {**SECTIONS, "partial_rotary_factor": 1.0},
        },
        {key: value for key, value in QWEN3.items() if key != "deepstack_visual_indexes"},
        "grid",
    ),
    # Its images' positions are their own, wherever they stand.
    "hunyuan_vl": (
        "HunYuanVL",
        {"image_token_id": IMAGE},
        {"model_type": "hunyuan_vl_text", **TEXT, "rope_parameters": SECTIONS},
        {**LARGE, "patch_size": 4, "text_hidden_size": 32},
        "grid of one frame",
    ),
    "paligemma": (
        "PaliGemma",
        {"image_token_index": IMAGE, "projection_dim": 32, "hidden_size": 32},
        {"model_type": "gemma", **TEXT},
        SIGLIP,
        "types",
    ),
    # Its positions begin at 1.
    "paligemma 2": (
        "PaliGemma",
        {"image_token_index": IMAGE, "projection_dim": 32, "hidden_size": 32},
        {"model_type": "gemma2", **TEXT, **SLIDING, "query_pre_attn_scalar": 8},
        SIGLIP,
        "pixels",
    ),
    "llava_next": (
        "LlavaNext",
        {"image_token_index": IMAGE, "image_seq_length": 4, "image_grid_pinpoints": [[8, 8]]},
        {"model_type": "llama", **TEXT},
        CLIP,
        "tiles",
    ),
    "idefics3": (
        "Idefics3",
        {"image_token_id": IMAGE, "scale_factor": 2},
        {"model_type": "llama", **TEXT},
        LARGE,
        "padded pixels",
    ),
    "smolvlm": (
        "SmolVLM",
        {"image_token_id": IMAGE, "scale_factor": 2},
        {"model_type": "llama", **TEXT},
        LARGE,
        "padded pixels",
    ),
    "internvl": (
        "InternVL",
        {"image_token_id": IMAGE, "image_seq_length": 4},
        {"model_type": "qwen2", **TEXT},
        {**LARGE, "image_size": [8, 8], "patch_size": [2, 2]},
        "pixels",
    ),
    "aya_vision": (
        "AyaVision",
        {"image_token_index": IMAGE},
        {"model_type": "cohere2", **TEXT, **SLIDING},
        SIGLIP,
        "one token",
    ),
    "mistral3 (pixtral)": (
        "Mistral3",
        {"image_token_index": IMAGE, "spatial_merge_size": 2, "vision_feature_layer": -1},
        {"model_type": "mistral", **TEXT, "sliding_window": WINDOW},
        PIXTRAL,
        "sizes",
    ),
}


def build(name: str, vocabulary: int = VOCABULARY) -> PreTrainedModel:
    """A random model of the architecture, in evaluation mode."""
    family, settings, text, vision, _ = SETTINGS[name]
    config_class: Any = getattr(transformers, f"{family}Config")
    torch.manual_seed(0)
    text = {**text, "vocab_size": vocabulary}
    config = config_class(**settings, text_config=text, vision_config=vision)
    model: PreTrainedModel = AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            # Large enough that attention and positions show in the logits.
            if parameter.ndim == 2 and "vision" not in key and "visual" not in key:
                parameter.normal_(0, 0.2)
    return model


def batch(
    name: str, layout: tuple[str, ...] = LAYOUTS[0], text: Sequence[int] = ()
) -> dict[str, torch.Tensor]:
    """Rows of tokens and images, each after a text, padded on the left as a processor does."""
    draw = torch.Generator().manual_seed(3)
    images = [row.count("I") for row in layout]
    given, count = _images(SETTINGS[name][4], images, draw)
    image = [IMAGE] * count if "grid" not in SETTINGS[name][4] else [START, *[IMAGE] * count]
    rows = []
    for row in layout:
        words = iter(torch.randint(10, 80, (len(row),), generator=draw).tolist())
        parts = [image if part == "I" else [next(words)] for part in row]
        rows.append([*text, *itertools.chain(*parts)])
    longest = max(map(len, rows))
    given["input_ids"] = torch.stack([pad(torch.tensor(r), (longest - len(r), 0)) for r in rows])
    real = [pad(torch.ones(len(row), dtype=torch.long), (longest - len(row), 0)) for row in rows]
    given["attention_mask"] = torch.stack(real)
    types = (given["input_ids"] == IMAGE).long()
    if SETTINGS[name][4] == "types":
        given["token_type_ids"] = types
    elif "grid" in SETTINGS[name][4] or name == "gemma4":
        given["mm_token_type_ids"] = types
    return given


def _images(
    kind: str, counts: list[int], draw: torch.Generator
) -> tuple[dict[str, torch.Tensor], int]:
    """Random images, so many in each row, and how many tokens one of them takes."""
    number, most = sum(counts), max(counts)
    if kind.startswith("grid"):
        frames = 1 if kind == "grid of one frame" else 2
        pixels = torch.randn(number * 16, 3 * frames * 16, generator=draw)
        tokens = 8 if kind == "grid of one frame" else 4
        grid = torch.tensor([[1, 4, 4]] * number)
        return {"pixel_values": pixels, "image_grid_thw": grid}, tokens
    if kind == "patches":
        where = torch.tensor([[i % 4, i // 4] for i in range(16)]).expand(number, -1, -1).clone()
        pixels = torch.randn(number, 16, 48, generator=draw).sigmoid()
        return {"pixel_values": pixels, "image_position_ids": where}, 4
    if kind == "padded pixels":
        pixels = torch.randn(len(counts), most, 3, 16, 16, generator=draw)
        for row, count in enumerate(counts):
            pixels[row, count:] = 0
        real = (pixels != 0).any(2)
        return {"pixel_values": pixels, "pixel_attention_mask": real}, 4
    if kind == "tiles":
        pixels = torch.randn(number, 2, 3, 8, 8, generator=draw)
        return {"pixel_values": pixels, "image_sizes": torch.tensor([[8, 8]] * number)}, 10
    if kind == "sizes":
        pixels = torch.randn(number, 3, 16, 16, generator=draw)
        return {"pixel_values": pixels, "image_sizes": torch.tensor([[16, 16]] * number)}, 4
    pixels = torch.randn(number, 3, 8, 8, generator=draw)
    return {"pixel_values": pixels}, 1 if kind == "one token" else 4
