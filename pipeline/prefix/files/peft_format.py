"""PEFT's adapter folder: `adapter_config.json` and `adapter_model.safetensors`.

PEFT 0.21 keeps a prefix as one tensor `prompt_embeddings` `[p, num_layers * 2 * token_dim]`: for
each virtual token, layer by layer, the keys of all heads and then their values. A trained head
(`modules_to_save`) stands beside it, its weights named `base_model.<name in the model>`.

For an encoder-decoder (`num_transformer_submodules` 2) PEFT takes the decoder's self-attention
alone, and layer i of it reads slot 2i modulo `num_layers` (its `get_prompt` doubles the slots and
splits them by four): what PEFT trained for L layers holds every second slot twice, and the others
not at all. An adapter written here says `num_layers` 2L, with layer i in slot 2i, which PEFT reads
as meant.
"""

import inspect
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.prefix.caches import recurs
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.kv_file import refuse_non_finite
from pipeline.prefix.parameters.flat import Shapes, flatten, unflatten
from pipeline.prefix.writing import write_whole

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
TENSOR = "prompt_embeddings"
_BASE = "base_model."


def save_adapter(
    kv: KVPrefix,
    folder: str | os.PathLike[str],
    model_config: PretrainedConfig,
    num_frozen_tokens: int = 0,
    modules_to_save: tuple[str, ...] = (),
    model: PreTrainedModel | None = None,
) -> None:
    """Write a prefix as PEFT's adapter for the model of a configuration.

    The class of `model` says what task the adapter is for; without one, for which no weights have
    to be loaded, it is causal language modelling.

    `PREFIX_TUNING`, or `CARTRIDGE` when first virtual tokens were kept frozen. Raises PrefixError
    for what PEFT's format cannot hold: it knows one size of keys and values, for all layers, no
    states, no model that has some, and of an encoder-decoder the decoder's self-attention alone.
    """
    if "state" in kv.kinds:
        raise PrefixError(
            "PEFT's format holds keys and values alone, this prefix has states too, which PEFT has "
            "no way to bring in; use KVPrefix.save"
        )
    if kv.states:
        raise PrefixError(
            "PEFT's format holds keys and values alone, without the index keys by which this "
            "prefix's are chosen; use KVPrefix.save"
        )
    if recurs(model_config):
        raise PrefixError(
            "PEFT brings a prefix in through a plain cache, which a model with layers that recur "
            f"({model_config.model_type}) does not take; use KVPrefix.save"
        )
    _refuse_what_peft_lacks(kv, model_config, model)
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
    flat = flatten(kv)
    layers, submodules = len(kv.keys), 1
    if model_config.is_encoder_decoder:
        # Layer i in slot 2i; the slots between are read by nothing.
        slots = flat.unflatten(1, (layers, -1))
        flat = torch.stack([slots, torch.zeros_like(slots)], dim=2).flatten(1)
        layers, submodules = 2 * layers, 2
    folder = Path(folder)
    config = {
        "auto_mapping": None,
        "base_model_name_or_path": model_config._name_or_path or None,
        "inference_mode": True,
        "num_attention_heads": heads,
        "num_layers": layers,
        "num_transformer_submodules": submodules,
        "num_virtual_tokens": len(kv),
        "revision": None,
        "task_type": "CAUSAL_LM" if model is None else _task_type(model),
        "token_dim": heads * head_dim,
    }
    if kv.modules:
        config["modules_to_save"] = list(modules_to_save)
    if num_frozen_tokens:
        config |= {"peft_type": "CARTRIDGE", "num_frozen_tokens": num_frozen_tokens}
    else:
        config |= {
            "peft_type": "PREFIX_TUNING",
            "prefix_projection": False,
            "encoder_hidden_size": heads * head_dim,
            "init_weights": None,
        }
    write_whole(
        folder / CONFIG,
        lambda path: path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n"),
    )
    tensors = {TENSOR: flat.detach().cpu().contiguous()}
    tensors |= {f"{_BASE}{name}": tensor.cpu() for name, tensor in kv.modules.items()}
    # Not in the configuration: PEFT warns of a key there that it does not know.
    about = {"format": "pt", **({"begins_text": "true"} if kv.begins_text else {})}
    write_whole(folder / WEIGHTS, lambda path: save_file(tensors, path, metadata=about))


def load_adapter(folder: str | os.PathLike[str], shapes: Shapes) -> KVPrefix:
    """Read a prefix-tuning or cartridge adapter that PEFT or `save_adapter` wrote.

    `shapes` are those of the part that PEFT prefixes (`adapter_shapes`).
    Metadata say `num_frozen_tokens` and `modules_to_save` (names joined by commas) where the
    adapter has them. Raises PrefixError when files are missing or damaged, the adapter is of
    another kind, its numbers are not finite, or it does not fit a model of these shapes.
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
    doubled = _is_doubled(config)
    if doubled:
        flat = _slots_read(flat, shapes)
    if flat.ndim != 2 or flat.shape[1] != width:
        heads = config.get("num_attention_heads")
        raise PrefixError(
            f"{folder}: the adapter is {tuple(flat.shape)} for {config.get('num_layers')} "
            f"layers of {heads} heads, the model needs (p, {width}) for {len(shapes)} layers of "
            f"{shapes[0][0][0]} heads; it was made for another model"
        )
    kv = unflatten(flat, shapes).beginning_text(begins_text(folder))
    if doubled:
        kv = replace(kv, parts=("decoder",) * len(shapes))
    modules = {n.removeprefix(_BASE): t for n, t in tensors.items() if n.startswith(_BASE)}
    refuse_non_finite(list(modules.values()), str(folder / WEIGHTS))
    kv.modules.update(modules)
    names = dict.fromkeys(config.get("modules_to_save") or ())
    saved = [n for n in names if any(key.startswith(f"{n}.") for key in modules)]
    if saved:
        kv.metadata["modules_to_save"] = ",".join(saved)
    if kind == "CARTRIDGE":
        kv.metadata["num_frozen_tokens"] = str(config.get("num_frozen_tokens", 0))
    return kv


def begins_text(folder: str | os.PathLike[str]) -> bool:
    """Whether an adapter's prefix begins a text (`KVPrefix.begins_text`), as `save_adapter` says.

    PEFT's own say nothing: what PEFT trains stands before inputs that have their BOS.
    """
    with safe_open(Path(folder) / WEIGHTS, framework="pt") as file:
        return (file.metadata() or {}).get("begins_text") == "true"


def _refuse_what_peft_lacks(
    kv: KVPrefix, config: PretrainedConfig, model: PreTrainedModel | None
) -> None:
    if config.is_encoder_decoder and set(kv.parts or ()) != {"decoder"}:
        raise PrefixError(
            "PEFT prefixes an encoder-decoder's decoder self-attention alone, this prefix is for "
            f"{', '.join(dict.fromkeys(kv.parts or ()))}; train with parts=('decoder',) for PEFT, "
            "or use KVPrefix.save"
        )
    if model is None or config.is_encoder_decoder:
        return
    parameters = inspect.signature(model.base_model.forward).parameters
    if kv.parts and "past_key_values" not in parameters:
        raise PrefixError(
            f"{type(model).__name__} takes no past_key_values, through which PEFT would bring the "
            "prefix in; use KVPrefix.save"
        )


def _task_type(model: PreTrainedModel) -> str:
    """PEFT's name for the task that a model's class is for."""
    name = type(model).__name__
    ends = {"ForSequenceClassification": "SEQ_CLS", "ForTokenClassification": "TOKEN_CLS"}
    for end, task in ends.items():
        if name.endswith(end):
            return task
    if model.config.is_encoder_decoder:
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM" if model.can_generate() else "FEATURE_EXTRACTION"


def _is_doubled(config: dict[str, Any]) -> bool:
    """Whether PEFT reads the adapter as an encoder-decoder's."""
    submodules = config.get("num_transformer_submodules")
    return submodules == 2 or (submodules is None and config.get("task_type") == "SEQ_2_SEQ_LM")


def _slots_read(flat: torch.Tensor, shapes: Shapes) -> torch.Tensor:
    """Of the slots of an encoder-decoder's adapter, those that its layers read, in their order."""
    heads, size = shapes[0][0]
    if flat.ndim != 2 or flat.shape[1] % (2 * heads * size):
        return flat
    slots = flat.unflatten(1, (-1, 2 * heads * size))
    read = 2 * torch.arange(min(len(shapes), slots.shape[1])) % slots.shape[1]
    return slots[:, read].flatten(1)


def _config(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise PrefixError(
            f"{path.parent}: holds no {CONFIG}; name a PEFT adapter folder"
        ) from error
    except (UnicodeDecodeError, ValueError, TypeError) as error:
        raise PrefixError(f"{path}: is no JSON object") from error
