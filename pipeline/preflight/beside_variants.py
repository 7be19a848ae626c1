"""Whether there is room for what stands before inputs beside the sweep's prefixes.

These are the virtual tokens of trained baselines, and what starts are chosen by.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.initialization.start import Start
from pipeline.preflight.context import (
    Statistics,
    check_inputs_after,
    context_of,
    longest_example,
)
from pipeline.preflight.texts import lengths_from


def check_trained_lengths(params: Params, config: Mapping[str, Any]) -> None:
    """Raise PipelineError for virtual tokens that leave no room for any input, by params alone."""
    context = context_of(config)
    if context is None:
        return
    for name, baseline in params.trained_baselines.items():
        if baseline.virtual_tokens >= context:
            raise PipelineError(
                f"trained_baselines.{name}.{baseline.length_key}: {baseline.virtual_tokens} "
                f"virtual tokens leave no room in the model's context of {context} positions; "
                "lower it"
            )


def check_trained_examples(
    params: Params, config: Mapping[str, Any], statistics: Statistics
) -> None:
    """Raise PipelineError when an example has no room after what is trained before it."""
    for name, baseline in params.trained_baselines.items():
        if baseline.virtual_tokens:
            what = f"trained_baselines.{name}"
            remedy = f"lower {what}.{baseline.length_key}"
            count = baseline.virtual_tokens
            check_inputs_after(count, what, remedy, params, config, statistics)


def check_starts(
    params: Params,
    config: Mapping[str, Any],
    statistics: Statistics,
    tokens_in: Callable[[str], int],
) -> None:
    """Raise PipelineError when what a start is chosen by has no room after what it is chosen from.

    `tokens_in` counts a text's tokens.
    """
    context = context_of(config)
    if context is None:
        return
    longest = longest_example(statistics["validation"], params)
    before = params.kv_prefix.max_length
    # The stage `kv_prefix` runs for all of them, in the sweep or not.
    for name, start in params.initializations.items():
        if start.validates_cache and before + longest > context:
            raise PipelineError(
                f"initializations.{name}: is chosen by validation examples, of which the longest "
                f"has {longest} tokens, after as many as kv_prefix.max_length: {before}, and both "
                f"are more than the model's context of {context} positions; lower "
                "kv_prefix.max_length or task.max_length"
            )
        text = start.tokens_before(tokens_in)
        if text is not None:
            _check_text(name, start, text, context, params, statistics["train"])


def _check_text(
    name: str, start: Start, text: int, context: int, params: Params, train: Mapping[str, float]
) -> None:
    """Of a start that is chosen from `text` tokens, with training examples after them."""
    key = f"initializations.{name}.corpus_tokens"
    if text > context:
        raise PipelineError(
            f"{key}: {text} tokens of the text are more than the model's context of {context} "
            "positions; lower it"
        )
    what = "example" if start.reads_targets else "input"
    whole = longest_example(train, params)
    read = whole if start.reads_targets else int(train["input_tokens_max"])
    # Where nothing starts from it, nothing is read after it.
    if any(lengths_from(name, params)) and text + read > context:
        raise PipelineError(
            f"{key}: the longest {what} of train has {read} tokens, which after {text} of the text "
            f"are more than the model's context of {context} positions; lower it"
        )
