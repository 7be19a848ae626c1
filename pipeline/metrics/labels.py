"""Accuracy and macro F1 of a classifier's labels, from what is kept of each example."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def share_right(given: Sequence[int], chosen: Sequence[int], labels: int) -> float:
    """The share of an example's labels that are the ones given."""
    return sum(a == b for a, b in zip(given, chosen, strict=True)) / len(given)


def counts_by_label(given: Sequence[int], chosen: Sequence[int], labels: int) -> list[float]:
    """Three counts of each of `labels` kinds of label: right, chosen, and given."""
    counts = [[0, 0, 0] for _ in range(labels)]
    for truth, choice in zip(given, chosen, strict=True):
        counts[truth][0] += truth == choice
        counts[choice][1] += 1
        counts[truth][2] += 1
    return [number for count in counts for number in count]


def macro_f1(sums: "np.ndarray") -> "np.ndarray":
    """The mean of each label's F1; one that is neither given nor chosen counts for nothing."""
    import numpy as np

    right, chosen, given = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 3), -1, 0)
    occurs = chosen + given > 0
    scores = 2 * right / np.where(occurs, chosen + given, 1)
    return np.asarray(scores.sum(axis=-1) / occurs.sum(axis=-1))
