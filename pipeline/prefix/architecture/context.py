"""How many positions a model has room for."""

from transformers import PreTrainedModel

from pipeline.prefix.architecture.reach import rotary_switch
from pipeline.prefix.errors import PrefixError


def context_of(model: PreTrainedModel) -> int | None:
    """The positions that a model's configuration sets an end to; None where it sets none.

    Where its rotary embedding changes with the length of the sequence, those up to the change: a
    prefix made before it does not fit what follows.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    ends = [int(end) for end in (context, rotary_switch(model.config)) if end is not None]
    return min(ends, default=None)


def refuse_beyond_context(num_virtual_tokens: int, model: PreTrainedModel) -> None:
    """Raise PrefixError for a prefix that leaves no position for an input."""
    context = context_of(model)
    if context is not None and num_virtual_tokens >= context:
        raise PrefixError(
            f"num_virtual_tokens is {num_virtual_tokens}, which leaves no room in the model's "
            f"context of {context} positions; use a shorter prefix"
        )
