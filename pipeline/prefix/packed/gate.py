"""Which models packed rows serve, and why not the others."""

import inspect
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.prefix.architecture.parts import evaluating, is_decoder_only
from pipeline.prefix.architecture.shapes import kv_shapes
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.packed.backends import why_not_decoded
from pipeline.prefix.packed.call import StateKind
from pipeline.prefix.packed.logits import NotPackableError, packed_logits


@torch.no_grad()
def why_not_packed(
    frozen_model: PreTrainedModel, prefix: KVPrefix | None, decoding: bool
) -> str | None:
    """Why packed rows do not serve a model with this prefix, in a clause; None where they do.

    They do where `packed_logits` gives what the model itself gives for each example alone, which
    is found out by trying both on two examples of a few tokens: an architecture is never assumed
    to be a plain one. `decoding` asks for greedy decoding from a `PackedCache` too.
    """
    name = type(frozen_model).__name__
    if prefix is not None and prefix.modules:
        return "a head trained beside the prefix answers for padded batches alone"
    if not is_decoder_only(frozen_model):
        return f"{name} is not causal throughout"
    if prefix is not None and prefix.layers is not None:
        # What it would be compared with holds its prefix in a plain cache, which has every layer.
        return "the prefix is for some layers alone"
    if prefix is None and frozen_model.is_gradient_checkpointing:
        return "layers recomputed in the backward pass find the model's own attention again"
    return _why_not_plain(frozen_model, prefix) or (
        why_not_decoded(_kind_of(frozen_model)) if decoding else None
    )


def _why_not_plain(model: PreTrainedModel, prefix: KVPrefix | None) -> str | None:
    name = type(model).__name__
    parameters = inspect.signature(model.forward).parameters
    if lacking := {"logits_to_keep", "position_ids"} - parameters.keys():
        return f"{name} takes no {min(lacking)}"
    if getattr(model.config.get_text_config(), "sliding_window", None) is not None:
        return f"{name} has a sliding window"
    ids = torch.arange(1, 6, device=model.device)
    keep = torch.arange(5, device=model.device)
    try:
        with evaluating(model):
            packed = packed_logits(model, ids, [2, 3], prefix, keep)
            alone = torch.cat([_alone(model, part, prefix) for part in ids.split([2, 3])])
    except (NotPackableError, TypeError) as error:
        return f"{name} computes more than scaled, causal softmax attention ({error})"
    # Half precision rounds differently on the two ways; a wrong way is off by far more.
    tolerance = 1e-4 if model.dtype == torch.float32 else 0.1
    scale = alone.float().abs().max().clamp(min=1)
    if bool(((packed - alone).float().abs().max() / scale) < tolerance):
        return None
    return f"{name} gives other logits for packed examples than for each alone"


def _alone(model: PreTrainedModel, ids: torch.Tensor, prefix: KVPrefix | None) -> torch.Tensor:
    extra: dict[str, Any] = {"use_cache": False}
    if prefix is not None:
        mask = torch.ones(1, len(prefix) + len(ids), dtype=torch.long, device=ids.device)
        cache = prefix.to(model.dtype).to_cache()
        extra = {"attention_mask": mask, "past_key_values": cache}
    logits: torch.Tensor = model(input_ids=ids[None], **extra).logits
    return logits[0]


def _kind_of(model: PreTrainedModel) -> StateKind:
    dims = frozenset(int(shape[-1]) for pair in kv_shapes(model) for shape in pair)
    return StateKind(model.device.type, frozenset({model.dtype}), dims)
