"""Whether differences between systems may be chance, whatever their number.

Everything is computed from statistics summed over examples (see `pipeline.metrics`), so that a
thousand draws are one matrix product. The draws depend on the seed and the number of examples
alone: all systems meet the same ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.metrics.metric import Metric
from pipeline.statistics.seeds import spread


@dataclass
class Resampling:
    """`resamples` draws of what chance does to a test set of `examples`, seeded."""

    examples: int
    resamples: int
    seed: int

    def p_values(
        self,
        metric: Metric,
        systems: Mapping[str, Sequence[np.ndarray]],
        reference: Sequence[np.ndarray],
    ) -> dict[str, float]:
        """The p value of each system's difference from `reference`, corrected for their number.

        A system is the statistics `[examples, k]` of each of its seeds, line by line of the same
        examples. Two sources of chance are drawn:

        - the examples: each draw swaps the outputs of system and reference, averaged over seeds,
          for a random half of the examples (approximate randomization: Noreen 1989; Riezler and
          Maxwell 2005);
        - the seeds, where there are several: each draw moves the mean over seeds, and draws what
          its variance would have been estimated as (the parametric bootstrap of Welch's t:
          Krishnamoorthy, Lu and Mathew 2007, Computational Statistics & Data Analysis 51).
          Of a single training they are not known, and the p value is of that very training.

        A difference, in units of its standard error, is compared with the largest in each draw of
        all that are no larger than it (step-down max T: Westfall and Young 1993, section 2.6).
        However many systems equal the reference, the chance that any of them gets p < 0.05 is 5%.
        No p value is below 1 / (resamples + 1).
        """
        names = sorted(systems)
        found, drawn = np.empty(len(names)), np.empty((self.resamples, len(names)))
        averaged = np.mean(reference, axis=0)
        of_reference = self._of_seeds(metric, reference, stream=0)
        for place, name in enumerate(names):
            own = np.mean(systems[name], axis=0)
            by_examples, difference = self._of_examples(metric, own, averaged)
            of_system = self._of_seeds(metric, systems[name], stream=place + 1)
            variance = float(np.mean(by_examples**2))
            drawn[:, place] = _ratio(
                by_examples + of_system.moved - of_reference.moved,
                variance + of_system.estimated + of_reference.estimated,
            )
            found[place] = _ratio(
                np.array(difference), np.array(variance + of_system.known + of_reference.known)
            )
        adjusted = _step_down(np.abs(found), np.abs(drawn))
        return {name: float(value) for name, value in zip(names, adjusted, strict=True)}

    def p_value(self, metric: Metric, one: np.ndarray, other: np.ndarray) -> float:
        """The p value of a single comparison of two trainings, `[examples, k]` each."""
        return self.p_values(metric, {"one": [one]}, [other])["one"]

    def _of_examples(
        self, metric: Metric, one: np.ndarray, other: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """The differences with outputs swapped, `[resamples]`, and the one that was found."""
        moved = self._is_swapped @ (other - one)
        drawn = metric.score(one.sum(axis=0) + moved) - metric.score(other.sum(axis=0) - moved)
        return drawn, float(metric.score(one.sum(axis=0)) - metric.score(other.sum(axis=0)))

    def _of_seeds(self, metric: Metric, seeds: Sequence[np.ndarray], stream: int) -> "_OfSeeds":
        known = spread(metric, seeds)
        if known is None:
            return _OfSeeds(np.zeros(self.resamples), np.zeros(self.resamples), 0.0)
        draw = np.random.default_rng([self.seed, 2, stream])
        moved = draw.normal(0.0, np.sqrt(known.variance), self.resamples)
        share = draw.chisquare(known.freedom, self.resamples) / known.freedom
        return _OfSeeds(moved, known.variance * share, known.variance)

    @cached_property
    def _is_swapped(self) -> np.ndarray:
        draw = np.random.default_rng([self.seed, 1])
        return draw.integers(0, 2, size=(self.resamples, self.examples)).astype(np.float64)


@dataclass(frozen=True)
class _OfSeeds:
    """How the seeds move a mean in each draw, `[resamples]`, and with which variance.

    `estimated` is the variance that each draw would find, `known` the one that was found.
    """

    moved: np.ndarray
    estimated: np.ndarray
    known: float


def _ratio(differences: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Differences in units of their standard errors; 0 where nothing varies."""
    errors = np.sqrt(variances)
    return np.divide(differences, errors, out=np.zeros_like(differences), where=errors > 0)


def _step_down(found: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The adjusted p values of `[systems]` statistics, from `[resamples, systems]` drawn ones."""
    order = np.argsort(found, kind="stable")
    largest = np.maximum.accumulate(drawn[:, order], axis=1)
    # Sums in another order round differently; that is no difference.
    as_large = largest >= found[order] * (1 - 1e-9) - 1e-12
    values = (1 + as_large.sum(axis=0)) / (1 + len(drawn))
    # No difference is surer than a larger one.
    values = np.maximum.accumulate(values[::-1])[::-1]
    adjusted = np.empty_like(values)
    adjusted[order] = values
    return adjusted
