"""How long a sequence may be before a model treats parts of it differently.

Short sequences do not show it: a window that hides nothing yet, rotary factors that are exchanged
only beyond the length of the pretraining, queries that are scaled from some place on. All of these
stand in the configuration. Windows that transformers makes masks of are told apart from the others:
what they hide can be read from the masks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

# Names under which configurations of transformers say how many keys a query sees at the most.
_WINDOWS = (
    *("sliding_window_size", "window_size", "keep_window_size"),
    *("attention_window", "attention_window_size", "index_topk"),
)
MASKED = ("sliding_window", "attention_chunk_size")
"""And those of them that `transformers.masking_utils` makes masks of."""


@dataclass(frozen=True)
class Reach:
    """Up to where every token sees all before it that no mask hides, by one set of positions.

    Attributes:
        tokens: the longest such sequence, the prefix included; None for any.
        row: the longest row of packed tokens, where the place in it weighs; None for any.
        why: what ends it, as a clause about the model.
    """

    tokens: int | None = None
    row: int | None = None
    why: str = ""


def reach_of(config: PreTrainedConfig) -> Reach:
    """The reach that a model's configuration speaks of."""
    text = config.get_text_config()
    ends = [
        (size, f"has a window of {size} tokens ({name})")
        for name in _WINDOWS
        for size in _sizes(vars(text).get(name))
    ]
    if (switch := rotary_switch(config)) is not None:
        ends.append((switch, f"changes its rotary embedding beyond {switch} positions"))
    row = None
    if vars(text).get("attn_temperature_tuning") and vars(text).get("floor_scale"):
        # Llama 4 scales queries by their place in the row, whatever their positions.
        row = int(vars(text)["floor_scale"]) - 1
        ends.append((row, f"scales queries from place {row + 1} on"))
    if not ends:
        return Reach()
    tokens, why = min(ends)
    return Reach(tokens, row, why)


def window_of(config: PreTrainedConfig) -> int | None:
    """Tokens of the smallest window or chunk that masks are made of; None where there is none."""
    text = config.get_text_config()
    return min((size for name in MASKED for size in _sizes(vars(text).get(name))), default=None)


def rotary_switch(config: PreTrainedConfig) -> int | None:
    """The last position up to which a rotary embedding has its first factors; None for any.

    LongRoPE takes other factors for a whole sequence as soon as it is longer (Ding et al. 2024,
    arXiv 2402.13753), dynamic NTK scaling goes on changing them: keys that were cached before do
    not fit those that follow.
    """
    text = config.get_text_config()
    ends = []
    for rope in _rotary(vars(text).get("rope_parameters")):
        kind = str(rope.get("rope_type", ""))
        if kind == "longrope":
            ends.append(rope.get("original_max_position_embeddings"))
        elif "dynamic" in kind:
            ends.append(vars(text).get("max_position_embeddings"))
    return min((int(end) for end in ends if end), default=None)


def _sizes(value: Any) -> list[int]:
    values = value if isinstance(value, list | tuple) else [value]
    return [size for size in values if isinstance(size, int) and size > 0]


def _rotary(parameters: Any) -> Iterator[dict[str, Any]]:
    """The rotary settings of all layers, or of each kind of layer."""
    if isinstance(parameters, dict):
        yield parameters
        for nested in parameters.values():
            yield from _rotary(nested)
