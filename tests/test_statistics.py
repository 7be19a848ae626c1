"""Laws of the intervals and the paired comparison."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.evaluation.metrics import kept_of
from pipeline.metrics.metric import OfTarget, OfText
from pipeline.metrics.table import METRICS, names_of
from pipeline.statistics.per_example import averaged
from pipeline.statistics.resampling import Resampling

OF_TEXT = names_of(OfText)
NAMES = (*names_of(OfTarget), *OF_TEXT)
words = st.lists(st.sampled_from(["a", "red", "cat", "sat", "down"]), min_size=1, max_size=6)
lines = st.lists(
    st.tuples(words, words, st.floats(0.01, 50), st.integers(1, 30)), min_size=1, max_size=8
)


def rows_of(drawn: list[Any]) -> list[dict[str, Any]]:
    return [
        {
            "loss": loss,
            "target_tokens": tokens,
            **kept_of(" ".join(text), [" ".join(reference)], OF_TEXT),
        }
        for text, reference, loss, tokens in drawn
    ]


@settings(max_examples=40, deadline=None)
@given(lines)
def test_an_interval_holds_its_score(drawn: list[Any]) -> None:
    resampling = Resampling(len(drawn), resamples=100, seed=0)
    rows = rows_of(drawn)
    for name in NAMES:
        metric = METRICS[name]
        matrix = metric.matrix(rows)
        low, high = resampling.interval(metric, matrix)
        assert low <= float(metric.score(matrix.sum(axis=0))) <= high
        if len(rows) == 1:
            assert high - low == pytest.approx(0)


@settings(max_examples=40, deadline=None)
@given(lines)
def test_a_system_does_not_differ_from_itself(drawn: list[Any]) -> None:
    resampling = Resampling(len(drawn), resamples=100, seed=0)
    for name in NAMES:
        metric = METRICS[name]
        matrix = metric.matrix(rows_of(drawn))
        assert resampling.p_value(metric, matrix, matrix.copy()) == 1.0


@settings(max_examples=20, deadline=None)
@given(lines, st.randoms())
def test_the_comparison_is_symmetric_and_the_same_each_time(drawn: list[Any], random: Any) -> None:
    metric = METRICS["loss"]
    one = metric.matrix(rows_of(drawn))
    other = one.copy()
    other[:, 0] *= [random.uniform(0.5, 1.5) for _ in drawn]
    values = {
        Resampling(len(drawn), resamples=200, seed=3).p_value(metric, *pair)
        for pair in ((one, other), (one, other), (other, one))
    }
    assert len(values) == 1


def test_the_interval_is_the_percentile_bootstrap() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=60)
    found = Resampling(60, resamples=20_000, seed=0).interval(METRICS["token_f1"], _f1(values))
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), rel=0.01)


def test_the_p_value_is_the_permutation_tests() -> None:
    draw = np.random.default_rng(0)
    one = draw.random(40)
    other = one + draw.normal(0.0, 0.2, size=40)
    found = Resampling(40, resamples=20_000, seed=0).p_value(
        METRICS["token_f1"], _f1(one), _f1(other)
    )
    expected = stats.permutation_test(
        (one - other,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1
    ).pvalue
    assert 0.01 < expected < 0.95
    assert found == pytest.approx(expected, abs=0.015)


def test_a_clear_difference_is_significant_and_few_examples_are_not() -> None:
    metric = METRICS["exact_match"]
    for examples, significant in ((40, True), (3, False)):
        better, worse = _f1(np.ones(examples)), _f1(np.zeros(examples))
        p_value = Resampling(examples, resamples=1000, seed=0).p_value(metric, better, worse)
        assert (p_value < 0.05) is significant


def test_averaging_over_seeds_keeps_the_score_of_each_seed_alike() -> None:
    one, other = _f1(np.array([0.0, 1.0])), _f1(np.array([1.0, 1.0]))
    both = averaged([{("test", "token_f1"): one}, {("test", "token_f1"): other}])
    score = METRICS["token_f1"].score(both["test", "token_f1"].sum(axis=0))
    assert float(score) == 0.75


def _f1(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones(len(values))], axis=1)
