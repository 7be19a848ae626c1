"""Whether a prefix model has a position for an input and what is to be generated after it."""

from pipeline.errors import PipelineError
from pipeline.prefix import PrefixModel
from pipeline.prefix.architecture.context import context_of


def refuse_without_room(model: PrefixModel, input_tokens: int, new_tokens: int) -> None:
    """Raise PipelineError for an input, or an answer of `new_tokens`, beyond the model's context.

    The last token of an answer is generated and never read.
    """
    frozen = model.frozen_model
    if frozen.config.is_encoder_decoder:
        # The decoder begins with a token of its own, in place of the one that is never read.
        _refuse(model, "encoder", f"the input has {input_tokens} tokens", input_tokens)
        _refuse(model, "decoder", f"the answer has up to {new_tokens} tokens", new_tokens)
        return
    what = f"the input has {input_tokens} tokens and the answer up to {new_tokens}"
    _refuse(model, "decoder", what, input_tokens + new_tokens - 1)


def _refuse(model: PrefixModel, part: str, what: str, tokens: int) -> None:
    context = context_of(model.frozen_model, part)
    before = model.prefix_length if not model.parts or part in model.parts else 0
    if context is not None and before + tokens > context:
        raise PipelineError(
            f"{what}, which after a prefix of {before} are more than the model's context of "
            f"{context} positions; shorten the input, or lower the number of new tokens"
        )
