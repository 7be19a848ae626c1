"""How sure a score is, given the test examples, and the seeds, that happened to be drawn.

The percentile bootstrap holds the truth too rarely on 80 examples: in 8 of 10 cases for a rate of
2%, in 9 for a loss that few examples carry. `python -m benchmarks.verdicts` measures what these
intervals hold. Each takes an example's influence on the score from leaving it out (the jackknife).
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import betaincinv, stdtrit

from pipeline.metrics.metric import Metric
from pipeline.metrics.table import METRICS
from pipeline.statistics.seeds import spread

OUTSIDE = 0.025
"""The chance that the truth lies beyond either end: intervals of 95%."""


def interval(metric: Metric, seeds: Sequence[np.ndarray]) -> tuple[float, float]:
    """The 95% interval of a system's score, its mean over seeds; it always holds that mean.

    `seeds` has the statistics `[examples, k]` of each training. Of several the interval is of
    trainings with any seed, of one it is of that very training. Both ends are NaN for a single
    example, which says nothing of others.
    """
    if metric.restates is not None and len(seeds) == 1:
        # What ranks everything alike has the same interval, each end as a score of its own.
        ends = [[end, 1.0] for end in interval(METRICS[metric.restates], seeds)]
        low, high = metric.score(np.array(ends))
        return float(low), float(high)
    examples = len(seeds[0])
    if examples < 2:
        return float("nan"), float("nan")
    score = float(np.mean([metric.score(matrix.sum(axis=0)) for matrix in seeds]))
    influences = np.mean([influence(metric, matrix) for matrix in seeds], axis=0)
    variance = float(np.sum(influences**2)) / (examples * (examples - 1))
    freedom = examples - 1.0
    of_seeds = spread(metric, seeds)
    if of_seeds is not None and of_seeds.variance > 0:
        # Satterthwaite 1946: the degrees of freedom of a sum of two estimated variances.
        both = variance + of_seeds.variance
        parts = variance**2 / freedom + of_seeds.variance**2 / of_seeds.freedom
        variance, freedom = both, both**2 / parts
    if metric.highest is not None:
        return _of_share(score, metric.highest, variance, freedom, examples)
    third_moment = float(np.mean(influences**3)) / examples**2
    return _of_skewed(score, variance, third_moment, float(stdtrit(freedom, 1 - OUTSIDE)))


def influence(metric: Metric, matrix: np.ndarray) -> np.ndarray:
    """How much each example moves the score of `[examples, k]` statistics: `[examples]`, mean 0.

    Efron 1992, Journal of the Royal Statistical Society B 54, "Jackknife-after-bootstrap standard
    errors and influence functions".
    """
    without = metric.score(matrix.sum(axis=0) - matrix)
    found: np.ndarray = (len(matrix) - 1) * (without.mean() - without)
    return found


def _of_share(
    score: float, highest: float, variance: float, freedom: float, examples: int
) -> tuple[float, float]:
    """The interval of Korn and Graubard (1998, Survey Methodology 24) of a score up to `highest`.

    It is Clopper and Pearson's of as many examples as it would take of plain right and wrong ones
    to have this variance; where all are right, or all wrong, of those that there are.
    """
    share = score / highest
    count = float(examples)
    if 0 < share < 1:
        if variance == 0:
            return score, score
        count = share * (1 - share) * highest**2 / variance
        count *= float(stdtrit(examples - 1, 1 - OUTSIDE) / stdtrit(freedom, 1 - OUTSIDE)) ** 2
    right = share * count
    low = betaincinv(right, count - right + 1, OUTSIDE) if share > 0 else 0.0
    high = betaincinv(right + 1, count - right, 1 - OUTSIDE) if share < 1 else 1.0
    return min(highest * float(low), score), max(highest * float(high), score)


def _of_skewed(
    score: float, variance: float, third_moment: float, quantile: float
) -> tuple[float, float]:
    """Hall's interval (1992, the same journal and volume): a t whose skewness is taken out.

    `variance` and `third_moment` are the score's, which is at least 0.
    """
    error = float(np.sqrt(variance))
    skewness = third_moment / error**3 if error > 0 else 0.0

    def t(quantile: float) -> float:
        if abs(skewness) < 1e-6:
            return quantile
        return float(3 / skewness * (np.cbrt(1 + skewness * (quantile - skewness / 6)) - 1))

    low, high = score - error * t(quantile), score - error * t(-quantile)
    return min(max(0.0, low), score), max(high, score)
