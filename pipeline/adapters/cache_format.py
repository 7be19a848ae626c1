"""A prefix as a KV cache that transformers' `DynamicCache` takes, with a model card."""

from pathlib import Path

from safetensors.torch import save_file
from transformers import AutoConfig

from pipeline.adapters.export import CARD, base_model_of
from pipeline.adapters.model_card import model_card
from pipeline.adapters.reading import read_named
from pipeline.config import Params
from pipeline.prefix import KVPrefix, PrefixError
from pipeline.prefix.architecture.reach import window_of
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import write_text
from pipeline.workspace import paths

WEIGHTS = "cache.safetensors"


def write_cache(params: Params, name: str, folder: Path, base_model: str | None) -> None:
    """Write keys and values, `[1, heads, p, size]` of each layer, and a card, all or nothing.

    Raises PrefixError for a prefix that a plain cache cannot hold.
    """
    kv = read_named(params, name)
    _refuse_what_caches_lack(name, kv, params)
    tensors = {f"keys.{i}": key[None] for i, key in enumerate(kv.keys)}
    tensors |= {f"values.{i}": value[None] for i, value in enumerate(kv.values)}
    named, revision = base_model_of(params, base_model)
    heads, size = kv.shapes[0][0]
    facts = {
        "num_virtual_tokens": len(kv),
        "num_layers": len(kv.keys),
        "num_attention_heads": heads,
        "token_dim": heads * size,
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "base_model_name_or_path": named,
        "revision": revision,
    }
    with atomic_folder(folder) as aside:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, aside / WEIGHTS)
        card = model_card(params, name, facts, kv.begins_text, "cache_card.md.jinja")
        write_text(aside / CARD, card)


def _refuse_what_caches_lack(name: str, kv: KVPrefix, params: Params) -> None:
    config = AutoConfig.from_pretrained(paths.MODEL, local_files_only=True)
    if kv.states or kv.parts is not None:
        lacking = "states, index keys and the parts of encoder-decoders have no place there"
    elif kv.layers is not None:
        lacking = f"it holds every layer, and this prefix is for {list(kv.layers)} alone"
    elif kv.modules:
        lacking = "weights were trained beside the prefix, which no cache holds"
    elif params.prefix.prefix_always_visible and window_of(config) is not None:
        lacking = (
            "sliding windows hide it from a distance, and the prefix was trained with "
            "prefix.prefix_always_visible"
        )
    else:
        return
    raise PrefixError(
        f"'{name}' cannot be a plain KV cache: {lacking}; use PrefixModel with the file of "
        "KVPrefix.save"
    )
