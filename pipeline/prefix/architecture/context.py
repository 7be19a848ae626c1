"""How many positions a model has room for."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from pipeline.prefix.architecture.reach import rotary_switch
from pipeline.prefix.errors import PrefixError

_POSITIONS = ("position_embeddings", "embed_positions")
# Their positions are relative and have no end, whatever their configuration says.
_WITHOUT_END = ("t5", "mt5", "umt5", "longt5", "switch_transformers", "bloom", "xlnet")


def context_of(model: PreTrainedModel, part: str = "decoder") -> int | None:
    """The positions that a model's configuration sets an end to; None where it sets none.

    Where its rotary embedding changes with the length of the sequence, those up to the change: a
    prefix made before it does not fit what follows. `part` is the encoder or the decoder of a model
    that has both.
    """
    config = model.config.get_text_config()
    if model.config.is_encoder_decoder:
        own = getattr(model.config, part, None)
        config = model.config if own is None or isinstance(own, dict) else own
    if config.model_type in _WITHOUT_END or getattr(config, "alibi", False):
        return None
    names = (f"max_{part}_position_embeddings", "max_position_embeddings", "max_seq_len")
    found = next((n for name in names if (n := getattr(config, name, None)) is not None), None)
    ends = [] if found is None else [int(found) - _before_the_first(model)]
    ends += [] if (switch := rotary_switch(config)) is None else [switch]
    return min(ends, default=None)


def refuse_beyond_context(num_virtual_tokens: int, model: PreTrainedModel) -> None:
    """Raise PrefixError for a prefix that leaves no position for an input."""
    context = context_of(model)
    if context is not None and num_virtual_tokens >= context:
        raise PrefixError(
            f"num_virtual_tokens is {num_virtual_tokens}, which leaves no room in the model's "
            f"context of {context} positions; use a shorter prefix"
        )


def first_positions(model: PreTrainedModel) -> list[int]:
    """The positions that a text's first token may have in a model that counts for itself.

    PaliGemma counts from 1, and where padding has a position of its own the first comes after it.
    """
    paddings = (
        getattr(module, "padding_idx", None)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in _POSITIONS
    )
    after = {padding + 1 for padding in paddings if isinstance(padding, int)}
    return [0, *sorted({1, *after})]


def _before_the_first(model: PreTrainedModel) -> int:
    """The positions that no token gets: RoBERTa and its kin count from after the padding's index.

    Their table of positions has that index for its padding too. OPT and BART count from 2, in a
    table of their own class that is longer by 2.
    """
    for name, module in model.named_modules():
        table: Any = module
        if name.rpartition(".")[2] in _POSITIONS and type(table) is nn.Embedding:
            return 0 if table.padding_idx is None else int(table.padding_idx) + 1
    return 0
