"""Sliding windows of encoders, which look both ways."""

import torch
from transformers import PreTrainedModel

from pipeline.prefix.architecture.context import context_of

_NAMES = ("sliding_window", "local_attention", "window_size", "attention_window", "local_window")


def window_of(model: PreTrainedModel) -> int | None:
    """How far, in keys, a token of a sliding layer sees to either side; None where none slides."""
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    return window if isinstance(window, int) and window > 0 else None


def reach(model: PreTrainedModel) -> int:
    """Tokens that are enough to lie beyond any window within the model's context; 0 for none."""
    text, context = model.config.get_text_config(), context_of(model)
    windows = [getattr(text, name, None) for name in _NAMES]
    widest = max((w for w in windows if isinstance(w, int)), default=0)
    return widest if context is None or 2 * widest < context else 0


def within(window: int, leading: torch.Tensor, queries: int, p: int) -> torch.Tensor:
    """Which prefix keys are near enough to each query: `[rows, 1, queries, p]`.

    The prefix stands right before each row's first token, `leading` `[rows]` padding before it.
    """
    query = torch.arange(queries, device=leading.device)[None, :, None] + p
    key = leading[:, None, None] + torch.arange(p, device=leading.device)
    return ((query - key).abs() <= window)[:, None]
