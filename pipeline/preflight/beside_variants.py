"""Whether there is room for what stands before inputs beside the sweep's prefixes.

These are the virtual tokens of trained baselines, and what starts are chosen by.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.preflight.context import (
    Statistics,
    check_inputs_after,
    context_of,
    longest_example,
)


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
    """Raise PipelineError when an example has no room after what is trained or tried before it."""
    for name, baseline in params.trained_baselines.items():
        if baseline.virtual_tokens:
            what = f"trained_baselines.{name}"
            remedy = f"lower {what}.{baseline.length_key}"
            count = baseline.virtual_tokens
            check_inputs_after(count, what, remedy, params, config, statistics)
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
