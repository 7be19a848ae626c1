"""The same checks of PEFT's prefix tuning."""

import copy
from typing import Any

import torch
from peft import (
    PrefixTuningConfig,
    get_peft_model,
    initialize_kv_prefix_from_past_key_values,
    initialize_kv_prefix_from_text,
)
from transformers import DynamicCache, PreTrainedModel

from benchmarks.census.attempts import Problem, attempt
from benchmarks.census.checks import Checked, check, loss_of, without_gradient
from benchmarks.census.expected import TEXT_LENGTH, Expected
from benchmarks.census.words import text_of, tokenizer


def check_peft(model: PreTrainedModel, expected: Expected) -> Checked:
    """PEFT as its documentation has it; where that fails, with all that it guesses spelt out."""
    first = attempt(lambda: _from_text(copy.deepcopy(model), expected.text))
    tuned = first
    if isinstance(first, Problem):
        tuned = attempt(lambda: _spelt_out(copy.deepcopy(model), expected.text))
    if isinstance(tuned, Problem):
        assert isinstance(first, Problem)
        return Checked(start=first)
    return check(tuned, expected, lambda: _without_gradient(tuned, expected))


def _from_text(model: PreTrainedModel, text: torch.Tensor) -> Any:
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=TEXT_LENGTH)
    tuned = get_peft_model(model, config)
    initialize_kv_prefix_from_text(tuned, tokenizer(), text=text_of(text), use_chat_template=False)
    return tuned


def _spelt_out(model: PreTrainedModel, text: torch.Tensor) -> Any:
    """From the text's keys and values, of all tokens in windows too, with the sizes of these."""
    cache = DynamicCache()
    with torch.no_grad():
        model(input_ids=text[None], use_cache=True, past_key_values=cache)
    layers = cache.layers
    _, heads, _, size = layers[0].keys.shape
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=TEXT_LENGTH,
        num_layers=len(layers),
        num_attention_heads=heads,
        token_dim=heads * size,
    )
    tuned = get_peft_model(model, config)
    held = [(layer.keys, layer.values) for layer in layers]
    initialize_kv_prefix_from_past_key_values(tuned, past_key_values=held)
    return tuned


def _without_gradient(tuned: Any, expected: Expected) -> list[str]:
    tuned.train()
    loss_of(tuned, expected).backward()
    gradient = tuned.prompt_encoder["default"].embedding.weight.grad
    parts = gradient.chunk(2 * tuned.active_peft_config.num_layers, 1)
    places = [(at // 2, ("keys", "values")[at % 2]) for at in range(len(parts))]
    still = [not bool(part.isfinite().all()) or not bool(part.any()) for part in parts]
    return without_gradient(dict(zip(places, still, strict=True)))
