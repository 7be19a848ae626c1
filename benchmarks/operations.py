"""What the mathematics of a training step needs, and what the machine's matrix products reach."""

import math
import statistics
import time
from typing import Any

import torch


def needed_operations(config: Any, batch: list[dict[str, Any]], p: int) -> float:
    """Floating-point operations of one step for a Llama-like model, as the mathematics needs them.

    A product of `[m, k]` and `[k, n]` counts 2mkn. Counted: every linear layer forward and, for
    the gradient of its input, backward (its weights are frozen); attention's two products forward
    and four backward over the keys that causality and sliding windows let a position see, those of
    the prefix before the others; logits at
    the positions that predict a target. Not counted: padding, logits elsewhere, recomputation,
    everything below the first layer's keys and values, and all that is no matrix product.
    """
    d, layers = config.hidden_size, config.num_hidden_layers
    head = getattr(config, "head_dim", None) or d // config.num_attention_heads
    queries = config.num_attention_heads * head
    keys = config.num_key_value_heads * head
    projections = d * (queries + 2 * keys)
    after = queries * d + 3 * d * config.intermediate_size
    tokens = sum(len(row["input_ids"]) for row in batch)
    targets = sum(len(row["input_ids"]) - row["target_start"] for row in batch)
    seen = sum(
        _seen(window, len(row["input_ids"]), p) for window in _windows(config) for row in batch
    )
    linear = 2 * tokens * (layers * 2 * (projections + after) - projections)
    attention = 2 * seen * queries * (2 + 4)
    logits = 2 * targets * d * config.vocab_size * 2
    return float(linear + attention + logits)


def _windows(config: Any) -> list[float]:
    """Of each layer the tokens that a query sees at the most."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return [config.sliding_window if "sliding" in kind else math.inf for kind in kinds]


def _seen(window: float, tokens: int, p: int) -> float:
    return sum(min(p + token, window) for token in range(1, tokens + 1))


def matrix_product_rate(dtype: torch.dtype = torch.bfloat16) -> float:
    """Operations per second of a 1024 x 1536 x 576 product: the median of 30 after warming up."""
    left, right = torch.randn(1024, 576, dtype=dtype), torch.randn(576, 1536, dtype=dtype)
    times = []
    for _ in range(40):
        begin = time.perf_counter()
        for _ in range(5):
            left @ right
        times.append((time.perf_counter() - begin) / 5)
    return 2 * 1024 * 1536 * 576 / statistics.median(times[10:])
