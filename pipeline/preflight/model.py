"""Whether the model is such as `task.type` needs."""

from collections.abc import Mapping
from typing import Any

from pipeline.config import Params
from pipeline.errors import PipelineError

_HEADS_WITHOUT_TEXT = (
    *("ForMaskedLM", "ForPreTraining"),
    *("ForSequenceClassification", "ForTokenClassification"),
)


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
    if kind == "causal_lm" and writes_no_text(config):
        raise PipelineError(
            f"task.type: causal_lm needs a model that writes text, which a {named} does not; use "
            "seq_cls or token_cls, or another model"
        )
    parts = params.prefix.parts
    if parts is not None and not both and (len(parts) > 1 or parts == ["cross"]):
        raise PipelineError(
            f"prefix.parts: {parts} needs an encoder-decoder, which {model} is not; use null"
        )
    # Other names say nothing of whether a model looks ahead.
    other = "encoder" if named.endswith("ForCausalLM") else "decoder"
    if parts == [other] and not both and named.endswith(("ForCausalLM", "ForMaskedLM")):
        raise PipelineError(
            f"prefix.parts: {parts} is of a model with that part, which a {named} has not; use null"
        )


def writes_no_text(config: Mapping[str, Any]) -> bool:
    """Whether the model has a head that fills in or classifies, by its configuration."""
    return (config.get("architectures") or [""])[0].endswith(_HEADS_WITHOUT_TEXT)
