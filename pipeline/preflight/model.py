"""Whether the model and the tokenized examples are such as `task.type` needs."""

from collections.abc import Mapping
from typing import Any

from pipeline.config import Params
from pipeline.errors import PipelineError

_HEADS_WITHOUT_TEXT = (
    *("ForMaskedLM", "ForPreTraining"),
    *("ForSequenceClassification", "ForTokenClassification"),
)
# These count positions from after the padding token's index.
_AFTER_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert")
# The parts whose positions are counted; cross-attention has none.
_COUNTED = ("encoder", "decoder")


def context_of(config: Mapping[str, Any]) -> int | None:
    """How many positions a model's configuration has room for; None where it sets no end.

    As `pipeline.prefix.architecture.context` counts them: up to where a rotary embedding changes.
    """
    keys = ("max_position_embeddings", "n_positions", "max_seq_len")
    positions = next((config[key] for key in keys if isinstance(config.get(key), int)), None)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    # Phi-3's first name for it was "su".
    if rope.get("rope_type", rope.get("type")) in ("longrope", "su"):
        name = "original_max_position_embeddings"
        positions = config.get(name) or rope.get(name) or positions
    if positions is not None and config.get("model_type") in _AFTER_PADDING:
        return int(positions) - int(config.get("pad_token_id") or 0) - 1
    return positions


def check_model_fits_task(params: Params, config: Mapping[str, Any]) -> None:
    """Raise PipelineError for a task, or a part for a prefix, that the model cannot have."""
    kind, model = params.task.type, config.get("model_type", "the model")
    both = bool(config.get("is_encoder_decoder"))
    if kind == "seq2seq_lm" and not both:
        raise PipelineError(
            f"task.type: seq2seq_lm needs an encoder-decoder (T5, BART, ...), which {model} is "
            "not; use another task.type, or another model"
        )
    if kind == "causal_lm" and both:
        raise PipelineError(
            f"task.type: causal_lm needs a decoder alone, but {model} is an encoder-decoder; use "
            "seq2seq_lm, or another model"
        )
    named = (config.get("architectures") or [""])[0]
    if kind == "causal_lm" and named.endswith(_HEADS_WITHOUT_TEXT):
        raise PipelineError(
            f"task.type: causal_lm needs a model that writes text, which a {named} does not; use "
            "seq_cls or token_cls, or another model"
        )
    parts = params.prefix.parts
    if parts is not None and not both and (len(parts) > 1 or parts == ["cross"]):
        raise PipelineError(
            f"prefix.parts: {parts} needs an encoder-decoder, which {model} is not; use null"
        )


def check_examples_fit_context(
    params: Params, config: Mapping[str, Any], statistics: Mapping[str, Mapping[str, float]]
) -> None:
    """Raise PipelineError for an encoder-decoder whose positions end before its examples do.

    It counts the positions of input and target apart, where `task.max_length` is of both together;
    relative positions have no end.
    """
    context = config.get("max_position_embeddings")
    if params.task.type != "seq2seq_lm" or not isinstance(context, int):
        return
    longest, parts = max(params.sweep.lengths), params.prefix.parts
    before = {part: longest if parts is None or part in parts else 0 for part in _COUNTED}
    for split, row in statistics.items():
        for side, part in (("input", "encoder"), ("target", "decoder")):
            tokens = int(row[f"{side}_tokens_max"])
            if tokens + before[part] > context:
                raise PipelineError(
                    f"task.max_length: the longest {side} of {split} has {tokens} tokens, which "
                    f"after a prefix of {before[part]} is more than the model's context of "
                    f"{context} positions; lower task.max_length with task.too_long: truncate or "
                    "drop, or lower sweep.lengths"
                )
    # One more for the token that the decoder starts from.
    if params.evaluate.max_new_tokens + 1 + before["decoder"] > context:
        raise PipelineError(
            f"evaluate.max_new_tokens: {params.evaluate.max_new_tokens} tokens after a prefix of "
            f"{before['decoder']} are more than the model's context of {context} positions; lower "
            "it or sweep.lengths"
        )
