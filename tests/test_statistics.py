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
from pipeline.statistics.intervals import interval
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
    rows = rows_of(drawn)
    for name in NAMES:
        metric = METRICS[name]
        matrix = metric.matrix(rows)
        low, high = interval(metric, [matrix])
        if len(rows) == 1:
            assert np.isnan([low, high]).all()
        else:
            score = float(metric.score(matrix.sum(axis=0)))
            assert 0 <= low <= score * (1 + 1e-9)
            assert score * (1 - 1e-9) <= high <= (metric.highest or np.inf)


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


@pytest.mark.parametrize("right", [0, 1, 8, 40, 80])
def test_the_interval_of_a_share_is_clopper_and_pearsons(right: int) -> None:
    values = np.repeat([1.0, 0.0], [right, 80 - right])
    low, high = interval(METRICS["exact_match"], [_f1(values)])
    expected = stats.binomtest(right, 80).proportion_ci(method="exact")
    # The variance is estimated from 80 examples, as if one of them were known.
    assert low == pytest.approx(expected.low, abs=0.002)
    assert high == pytest.approx(expected.high, abs=0.002)


def test_the_interval_of_a_loss_is_students_but_for_its_skewness() -> None:
    values = 3.0 + np.random.default_rng(0).normal(size=60)
    even = np.concatenate([values, 6.0 - values])
    expected = stats.t.interval(0.95, 119, even.mean(), stats.sem(even))
    assert interval(METRICS["loss"], [_f1(even)]) == pytest.approx(expected, rel=1e-6)
    skewed = np.random.default_rng(0).exponential(size=60)
    below, above = stats.t.interval(0.95, 59, skewed.mean(), stats.sem(skewed))
    low, high = interval(METRICS["loss"], [_f1(skewed)])
    # Few large losses: the mean may be far above, and hardly below.
    assert low > below
    assert high > above
    perplexity = interval(METRICS["perplexity"], [_f1(skewed)])
    assert perplexity == pytest.approx((np.exp(low), np.exp(high)))


def test_the_interval_over_seeds_is_wider_by_what_they_spread() -> None:
    even = np.tile([0.0, 1.0], 500)
    of_one = interval(METRICS["loss"], [_f1(even)])
    assert interval(METRICS["loss"], [_f1(even)] * 3) == pytest.approx(of_one)
    low, high = interval(METRICS["loss"], [_f1(even + move) for move in (-0.1, 0.0, 0.1)])
    error = np.hypot(0.1 / np.sqrt(3), stats.sem(even))
    # The degrees of freedom are those of the seeds, of which nearly all of the variance is.
    assert (high - low) / 2 / error == pytest.approx(stats.t.ppf(0.975, 2), rel=0.12)


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


def test_the_correction_counts_how_many_are_compared_and_how_alike_they_are() -> None:
    draw = np.random.default_rng(4)
    metric, base = METRICS["token_f1"], draw.random(80)
    one = _f1(base + draw.normal(0.045, 0.2, size=80))
    others = {f"b{i}": [_f1(base + draw.normal(0.0, 0.2, size=80))] for i in range(30)}
    resampling = Resampling(80, resamples=2000, seed=0)
    alone = resampling.p_value(metric, one, _f1(base))
    assert 0.005 < alone < 0.05
    same = resampling.p_values(metric, {f"a{i}": [one] for i in range(30)}, [_f1(base)])
    assert set(same.values()) == {alone}
    among = resampling.p_values(metric, {"a": [one], **others}, [_f1(base)])
    assert 0.05 < among["a"] < 1 - (1 - alone) ** 31 + 0.05
    reordered = dict(reversed([("a", [one]), *others.items()]))
    assert resampling.p_values(metric, reordered, [_f1(base)]) == among


def test_a_large_difference_does_not_hide_a_smaller_one() -> None:
    draw = np.random.default_rng(0)
    base = draw.random(80)
    lead = {"far": 0.5, "near": 0.1, "equal": 0.0}
    systems = {name: [_f1(base + draw.normal(by, 0.2, size=80))] for name, by in lead.items()}
    found = Resampling(80, resamples=1000, seed=0).p_values(
        METRICS["token_f1"], systems, [_f1(base)]
    )
    assert found["far"] <= found["near"] < 0.01
    assert found["equal"] > 0.05


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_where_only_seeds_are_chance_the_test_is_welchs(seeds: int) -> None:
    one, other = 0.5 + 0.03 * np.random.default_rng(seeds).normal(size=(2, seeds))
    one = one + 0.04
    systems = [[_f1(np.full(500, score)) for score in scores] for scores in (one, other)]
    metric, draws = METRICS["token_f1"], Resampling(500, resamples=4000, seed=0)
    found = draws.p_values(metric, {"one": systems[0]}, systems[1])["one"]
    expected = stats.ttest_ind(one, other, equal_var=False).pvalue
    assert 0.01 < expected < 0.6
    assert found == pytest.approx(expected, abs=0.05)
    # The means of the same seeds, as if they were one training each.
    averaged = [np.mean(system, axis=0) for system in systems]
    assert draws.p_value(metric, *averaged) < 0.01


def test_a_reference_without_seeds_leaves_those_of_the_other() -> None:
    scores = np.array([0.51, 0.56, 0.60])
    systems = {"one": [_f1(np.full(500, score)) for score in scores]}
    found = Resampling(500, resamples=4000, seed=0).p_values(
        METRICS["token_f1"], systems, [_f1(np.full(500, 0.5))]
    )
    assert found["one"] == pytest.approx(stats.ttest_1samp(scores, 0.5).pvalue, abs=0.02)


def _f1(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones(len(values))], axis=1)
