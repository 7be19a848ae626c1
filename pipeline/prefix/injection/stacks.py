"""The stacks of layers of a model with an encoder, and what gives their input its positions."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.prefix.architecture.parts import takes

PAST = "past_key_values_length"
POSITIONS = "position_ids"


def stacks_of(model: PreTrainedModel, parts: set[str]) -> list[Any]:
    """The modules that run the layers of these parts."""
    if not model.config.is_encoder_decoder:
        return [model.base_model]
    encoder = [model.get_encoder()] if "encoder" in parts else []
    return encoder + ([model.get_decoder()] if "decoder" in parts else [])


def counted(bound: dict[str, Any]) -> torch.Tensor:
    """The positions that a stack counts for itself, of real tokens alone."""
    given = (bound.get(name) for name in ("input_ids", "inputs_embeds"))
    tokens = next(value for value in given if value is not None)
    length, mask = tokens.shape[1], bound.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.ndim == 2:
        return (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
    past = bound.get("past_key_values")
    start = 0 if past is None else past.get_seq_length()
    return torch.arange(start, start + length, device=tokens.device)[None]


def positional(model: PreTrainedModel, parts: set[str]) -> list[nn.Module]:
    """The modules that give the input of a part's stack its positions.

    Learned and sinusoidal ones are added by a module of their own; a stack that rotates keys is
    given them.
    """
    stacks = stacks_of(model, parts)
    modules = [dict(stack.named_modules()) for stack in stacks]
    given = [m for named in modules for m in named.values() if takes(m, PAST)]
    if given:
        return given
    learned: list[nn.Module] = [
        module
        for named in modules
        for name, module in named.items()
        # Not `x_position_embeddings`, of a place on a page.
        if name.split(".")[-1] == "position_embeddings" and isinstance(module, nn.Embedding)
    ]
    return learned or [stack for stack in stacks if takes(stack, POSITIONS)]
