"""How many positions a model has room for."""

from transformers import PreTrainedModel

from pipeline.prefix.errors import PrefixError


def context_of(model: PreTrainedModel) -> int | None:
    """The positions that a model's configuration sets an end to; None where it sets none."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if context is None else int(context)


def refuse_beyond_context(num_virtual_tokens: int, model: PreTrainedModel) -> None:
    """Raise PrefixError for a prefix that leaves no position for an input."""
    context = context_of(model)
    if context is not None and num_virtual_tokens >= context:
        raise PrefixError(
            f"num_virtual_tokens is {num_virtual_tokens}, which leaves no room in the model's "
            f"context of {context} positions; use a shorter prefix"
        )
