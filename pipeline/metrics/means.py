"""Scores that are one sum over another."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def mean(sums: "np.ndarray") -> "np.ndarray":
    """The first of two sums over the second: `[..., 2]` to `[...]`."""
    return sums[..., 0] / sums[..., 1]


def exponential(sums: "np.ndarray") -> "np.ndarray":
    """The exponential of their mean: perplexity, where the mean is of nats."""
    import numpy as np

    # A float holds no more than e^709; such a loss is beyond comparing anyway.
    return np.exp(np.minimum(mean(sums), 700.0))
