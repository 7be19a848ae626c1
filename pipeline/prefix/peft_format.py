"""PEFT's adapter folder: `adapter_config.json` and `adapter_model.safetensors`.

PEFT 0.21 keeps a prefix as one tensor `prompt_embeddings` `[p, num_layers * 2 * token_dim]`: for
each virtual token, layer by layer, the keys of all heads and then their values.
"""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PretrainedConfig

from pipeline.prefix.encoder import Shapes, flatten, unflatten
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix, refuse_non_finite

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
TENSOR = "prompt_embeddings"


def save_adapter(
    kv: KVPrefix,
    folder: str | os.PathLike[str],
    model_config: PretrainedConfig,
    num_frozen_tokens: int = 0,
) -> None:
    """Write a prefix as PEFT's adapter for the causal language model of a configuration.

    `PREFIX_TUNING`, or `CARTRIDGE` when first virtual tokens were kept frozen. Raises PrefixError
    for what PEFT's format cannot hold: it knows one size of keys and values, for all layers.
    """
    if kv.layers is not None:
        raise PrefixError(
            f"PEFT's format holds a prefix for every layer, this one is for {list(kv.layers)} "
            "alone; use KVPrefix.save"
        )
    key_shape, value_shape = kv.shapes[0]
    if key_shape != value_shape or any(pair != kv.shapes[0] for pair in kv.shapes):
        raise PrefixError(
            "PEFT's format holds one shape for all keys and values, but this model's differ "
            f"between layers or between keys {key_shape} and values {value_shape}; use "
            "KVPrefix.save"
        )
    heads, head_dim = key_shape
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "auto_mapping": None,
        "base_model_name_or_path": model_config._name_or_path or None,
        "inference_mode": True,
        "num_attention_heads": heads,
        "num_layers": len(kv.keys),
        "num_transformer_submodules": 1,
        "num_virtual_tokens": len(kv),
        "revision": None,
        "task_type": "CAUSAL_LM",
        "token_dim": heads * head_dim,
    }
    if num_frozen_tokens:
        config |= {"peft_type": "CARTRIDGE", "num_frozen_tokens": num_frozen_tokens}
    else:
        config |= {
            "peft_type": "PREFIX_TUNING",
            "prefix_projection": False,
            "encoder_hidden_size": heads * head_dim,
            "init_weights": None,
        }
    _write(
        folder / CONFIG,
        lambda path: path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n"),
    )
    tensors = {TENSOR: flatten(kv).detach().cpu().contiguous()}
    _write(folder / WEIGHTS, lambda path: save_file(tensors, path, metadata={"format": "pt"}))


def load_adapter(folder: str | os.PathLike[str], shapes: Shapes) -> KVPrefix:
    """Read a prefix-tuning or cartridge adapter that PEFT or `save_adapter` wrote.

    Raises PrefixError when files are missing or damaged, the adapter is of another kind, its
    numbers are not finite, or it does not fit a model of these shapes.
    """
    folder = Path(folder)
    config = _config(folder / CONFIG)
    kind = str(config.get("peft_type"))
    if kind not in ("PREFIX_TUNING", "CARTRIDGE"):
        raise PrefixError(f"{folder}: is a {kind} adapter; PREFIX_TUNING or CARTRIDGE is needed")
    try:
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise PrefixError(
            f"{folder}: holds no {WEIGHTS}; PEFT writes it beside {CONFIG}"
        ) from error
    except (SafetensorError, OSError) as error:
        raise PrefixError(
            f"{folder / WEIGHTS}: is no complete safetensors file ({error})"
        ) from error
    if TENSOR not in tensors:
        found = ", ".join(sorted(tensors)) or "nothing"
        raise PrefixError(f"{folder / WEIGHTS}: holds {found}, but no {TENSOR}")
    flat = tensors[TENSOR].float()
    refuse_non_finite([flat], str(folder / WEIGHTS))
    width = sum(k[0] * k[1] + v[0] * v[1] for k, v in shapes)
    if flat.ndim != 2 or flat.shape[1] != width:
        heads = config.get("num_attention_heads")
        raise PrefixError(
            f"{folder}: the adapter is {tuple(flat.shape)} for {config.get('num_layers')} "
            f"layers of {heads} heads, the model needs (p, {width}) for {len(shapes)} layers of "
            f"{shapes[0][0][0]} heads; it was made for another model"
        )
    kv = unflatten(flat, shapes)
    if kind == "CARTRIDGE":
        kv.metadata["num_frozen_tokens"] = str(config.get("num_frozen_tokens", 0))
    return kv


def _config(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise PrefixError(
            f"{path.parent}: holds no {CONFIG}; name a PEFT adapter folder"
        ) from error
    except (UnicodeDecodeError, ValueError, TypeError) as error:
        raise PrefixError(f"{path}: is no JSON object") from error


def _write(path: Path, write: Any) -> None:
    """Write aside, then rename: a reader never meets half a file."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        write(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
