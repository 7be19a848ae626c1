"""Where the prefix stands among the keys of a padded batch, and which layers see it.

By default keys are prefix, then the row as the caller padded it: padding is masked, so where it
stands matters to no attention that goes by given positions. It does matter where distance is
counted in keys: to a sliding window, and to position biases made from the place of a key. There,
padding on the left of a row moves before the prefix, so that nothing stands between the prefix and
the row's first token.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig

from pipeline.prefix.errors import PrefixError

# Names by which configurations of transformers announce that distance is counted in keys.
_COUNTS_KEYS = ("sliding_window", "window_size", "attention_chunk_size", "alibi", "attn_config")

# Kinds of layers that see every key, or none: those that recur, and those that mix no tokens.
_BY_POSITIONS_ALONE = ("full_attention", "linear_attention", "conv", "moe", "mlp")


def distance_counts_keys(config: PreTrainedConfig) -> bool:
    """Whether some layer of such a model weighs or hides keys by their place among the keys."""
    text = config.get_text_config()
    if any(getattr(text, name, None) for name in _COUNTS_KEYS):
        return True
    kinds = getattr(text, "layer_types", None) or []
    return any(kind not in _BY_POSITIONS_ALONE for kind in kinds)


def hides_within(config: PreTrainedConfig) -> bool:
    """Whether the model's attention hides distant keys by itself, out of reach of its mask."""
    return getattr(config.get_text_config(), "attention_types", None) is not None


@dataclass(frozen=True)
class Layout:
    """How one forward pass lays out its keys.

    Attributes:
        mask: `[batch, p + tokens]`, 1 for keys to attend to.
        order: `[batch, p + tokens]` indices into (prefix, tokens); None for that order itself.
        is_prefix: `[batch or 1, p + tokens]`, true where a key is the prefix's.
    """

    mask: torch.Tensor
    order: torch.Tensor | None
    is_prefix: torch.Tensor

    def of_tokens(self, chosen: torch.Tensor) -> torch.Tensor:
        """Where a key is one of some virtual tokens, boolean `[p]`; shaped as `is_prefix`."""
        token = (self.is_prefix.long().cumsum(-1) - 1).clamp(0, len(chosen) - 1)
        return self.is_prefix & chosen.to(token.device)[token]


def lay_out(mask: torch.Tensor, prefix_length: int, ordered: bool) -> Layout:
    """The layout for a mask `[batch, tokens]` of the input's tokens, past ones included."""
    batch, tokens = mask.shape
    p = prefix_length
    place = torch.arange(p + tokens, device=mask.device)
    extended = torch.cat([mask.new_ones(batch, p), mask], dim=-1)
    if not ordered:
        return Layout(extended, None, (place < p)[None])
    # The index of a row's first 1: how much padding leads it.
    leading = mask.long().argmax(dim=-1, keepdim=True)
    is_prefix = (place >= leading) & (place < leading + p)
    order = torch.where(place < leading, place + p, torch.where(is_prefix, place - leading, place))
    return Layout(extended.gather(1, order), order, is_prefix)


def show_prefix(
    attention_mask: torch.Tensor, is_prefix: torch.Tensor, show: bool, true_hides: bool = False
) -> torch.Tensor:
    """An attention's mask `[batch, 1, queries, keys]` with every prefix key shown, or hidden.

    A boolean mask is true for keys to attend to, or with `true_hides` for the others; any other is
    added to the scores. Raises PrefixError for masks of another form, as flash attention has them.
    """
    if attention_mask.ndim != 4:
        raise PrefixError(
            "layers, prefix_always_visible and hidden virtual tokens need an attention that takes "
            "a mask of four dimensions; load the model with attn_implementation='sdpa' or 'eager'"
        )
    chosen = is_prefix[:, None, None, :]
    if attention_mask.dtype == torch.bool:
        return attention_mask | chosen if show is not true_hides else attention_mask & ~chosen
    hidden = torch.finfo(attention_mask.dtype).min
    if not show:
        return attention_mask.masked_fill(chosen, hidden)
    # What is not hidden may hold a position bias.
    return attention_mask.masked_fill(chosen & (attention_mask <= hidden / 2), 0.0)


def causal_mask(module: Any, is_prefix: torch.Tensor, queries: int, dtype: torch.dtype) -> Any:
    """The mask that transformers left out because plain causality needs none."""
    keys = is_prefix.shape[-1]
    place = torch.arange(keys, device=is_prefix.device)
    allowed = place <= place[keys - queries :, None]
    allowed = allowed[None, None].expand(is_prefix.shape[0], 1, queries, keys)
    if getattr(module.config, "_attn_implementation", "eager") == "sdpa":
        return allowed
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )
