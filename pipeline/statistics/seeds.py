"""How far trainings that differ in their seed alone spread."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.metrics.metric import Metric


@dataclass(frozen=True)
class Spread:
    """What is known of the mean score over seeds: the variance of that mean.

    `freedom` is the degrees of freedom that it is estimated with. Each setting has its own: those
    of a sweep spread too differently for one to borrow from the others (a random start five times
    as far as a text's).
    """

    variance: float
    freedom: int


def spread(metric: Metric, seeds: Sequence[np.ndarray]) -> Spread | None:
    """The spread of a system, of which `seeds` has the statistics `[examples, k]` of each training.

    None for a single one: how another seed would do is not known, or nothing was drawn.
    """
    if len(seeds) < 2:
        return None
    scores = [float(metric.score(matrix.sum(axis=0))) for matrix in seeds]
    return Spread(float(np.var(scores, ddof=1)) / len(seeds), len(seeds) - 1)
