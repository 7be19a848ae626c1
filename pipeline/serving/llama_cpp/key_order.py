"""In which order an engine keeps the numbers of a key, measured on keys of the same tokens.

llama.cpp's converter permutes the rows of some architectures' query and key weights, so that a
rotary pair stands side by side, (2i, 2i + 1), where transformers has it half a head apart,
(i, i + d/2). Scores are the same, cached keys are not. Which architectures these are changes with
the converter: the order is read from what the engine computed.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from pipeline.errors import PipelineError

LARGEST_DIFFERENCE = 0.3
"""Up to which two computations are of the same weights, one of them perhaps quantized."""


@dataclass(frozen=True)
class KeyOrder:
    """What was found.

    Attributes:
        of_layers: for each layer the numbers of transformers' key `[k_dim]` in the engine's order.
        keys: the largest relative difference of a layer's keys, in that order.
        values: the largest relative difference of a layer's values.
    """

    of_layers: tuple[np.ndarray, ...]
    keys: float
    values: float

    @property
    def told(self) -> str:
        """The order in words."""
        if all((order == np.arange(len(order))).all() for order in self.of_layers):
            return "as transformers has them"
        if all((order == interleaved(len(order))).all() for order in self.of_layers):
            return "permuted, rotary pairs side by side"
        return "permuted"

    def apply(self, layer: int, keys: np.ndarray) -> np.ndarray:
        """Keys `[num_kv_heads, p, k_dim]` of a layer in the engine's order."""
        return np.asarray(keys[..., self.of_layers[layer]])


def interleaved(size: int) -> np.ndarray:
    """The order that puts rotary pairs (i, i + size/2) side by side."""
    return np.arange(size).reshape(2, -1).T.reshape(-1)


def key_order(
    ours: list[tuple[np.ndarray, np.ndarray]], keys: list[np.ndarray], values: list[np.ndarray]
) -> KeyOrder:
    """The order of an engine's keys.

    Args:
        ours: of each layer transformers' keys and values `[num_kv_heads, tokens, d]`.
        keys: of each layer the engine's keys of the same tokens, `[tokens, num_kv_heads * k_dim]`.
        values: of each layer the engine's values, `[tokens, num_kv_heads * v_dim]`.

    Raises:
        PipelineError: where shapes, values or keys show another model.
    """
    if len(keys) != len(ours):
        raise _another(f"has a cache of {len(keys)} layers, the frozen model one of {len(ours)}")
    orders, key_differences, value_differences = [], [], []
    for layer, ((our_keys, our_values), row, value_row) in enumerate(
        zip(ours, keys, values, strict=True)
    ):
        for mine, theirs in ((our_keys, row), (our_values, value_row)):
            if theirs.shape != (mine.shape[1], mine.shape[0] * mine.shape[2]):
                raise _another(
                    f"keeps {theirs.shape[1]} numbers of a token in layer {layer}, the frozen "
                    f"model {mine.shape[0] * mine.shape[2]}"
                )
        value_differences.append(_difference(_heads(value_row, our_values), our_values))
        theirs = _heads(row, our_keys)
        orders.append(_matched(theirs, our_keys))
        key_differences.append(_difference(theirs, our_keys[..., orders[-1]]))
    order = KeyOrder(tuple(orders), max(key_differences), max(value_differences))
    for what, difference in (("values", order.values), ("keys", order.keys)):
        if not difference <= LARGEST_DIFFERENCE:
            raise _another(
                f"computes {what} that differ from the frozen model's by {difference:.0%} of their "
                "size in some layer"
            )
    return order


def _another(what: str) -> PipelineError:
    return PipelineError(
        f"llama.cpp's model {what}, so that a prefix of this one has no meaning there; give the "
        "GGUF file that data/model was converted from, or one converted from it"
    )


def _heads(rows: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A row a token as `[num_kv_heads, tokens, d]`."""
    heads, tokens, size = like.shape
    return rows.reshape(tokens, heads, size).transpose(1, 0, 2)


def _matched(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """The order of `ours` that is nearest to `theirs`, the same for all heads."""
    columns, others = (np.concatenate(list(a)).astype(np.float64) for a in (theirs, ours))
    squares = (columns**2).sum(0)[:, None] + (others**2).sum(0)[None] - 2 * columns.T @ others
    return np.asarray(linear_sum_assignment(squares)[1])


def _difference(theirs: np.ndarray, ours: np.ndarray) -> float:
    return float(np.linalg.norm(theirs - ours) / np.linalg.norm(ours))
