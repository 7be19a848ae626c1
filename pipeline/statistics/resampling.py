"""How sure a score and a difference are, given the test examples that happened to be drawn.

Everything is computed from statistics summed over examples (see `pipeline.metrics`), so
a thousand test sets are one matrix product. The draws depend on the seed and the number of
examples alone: all systems meet the same test sets.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pipeline.metrics.metric import Metric


@dataclass
class Resampling:
    """`resamples` draws of a test set of `examples`, seeded."""

    examples: int
    resamples: int
    seed: int
    level: float = field(default=0.95)

    def interval(self, metric: Metric, statistics: np.ndarray) -> tuple[float, float]:
        """The percentile bootstrap interval of a score; it always holds the score itself.

        Efron and Tibshirani 1993, chapter 13. `statistics` is `[examples, k]`.
        """
        drawn = metric.score(self._times_drawn @ statistics)
        outside = (1 - self.level) / 2
        low, high = np.quantile(drawn, [outside, 1 - outside])
        score = float(metric.score(statistics.sum(axis=0)))
        return min(float(low), score), max(float(high), score)

    def p_value(self, metric: Metric, one: np.ndarray, other: np.ndarray) -> float:
        """How often two systems alike differ as much, by a two-sided paired permutation test.

        Each draw swaps the systems' outputs for a random half of the examples (approximate
        randomization: Noreen 1989; Riezler and Maxwell 2005). `one` and `other` are
        `[examples, k]`, line by line of the same examples. At least 1 / (resamples + 1).
        """
        moved = self._is_swapped @ (other - one)
        drawn = metric.score(one.sum(axis=0) + moved) - metric.score(other.sum(axis=0) - moved)
        found = metric.score(one.sum(axis=0)) - metric.score(other.sum(axis=0))
        # Sums in another order round differently; that is no difference.
        as_large = np.abs(drawn) >= abs(float(found)) * (1 - 1e-9) - 1e-12
        return float((1 + as_large.sum()) / (1 + self.resamples))

    @cached_property
    def _times_drawn(self) -> np.ndarray:
        """How often each draw, with replacement, holds each example: `[resamples, examples]`."""
        draw = np.random.default_rng([self.seed, 0])
        even = np.full(self.examples, 1 / self.examples)
        return draw.multinomial(self.examples, even, size=self.resamples).astype(np.float64)

    @cached_property
    def _is_swapped(self) -> np.ndarray:
        draw = np.random.default_rng([self.seed, 1])
        return draw.integers(0, 2, size=(self.resamples, self.examples)).astype(np.float64)
