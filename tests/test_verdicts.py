"""What is called the best, and how often verdicts are wrong where the truth is known."""

from typing import Any

import pandas as pd
import pytest

from benchmarks.verdicts import World, differences, false_winners
from pipeline.comparison.choice import best_first, best_run, best_setting
from pipeline.config import Params
from tests.test_report import big_params


def runs(*scores: tuple[str, float, float], kind: str = "variant") -> pd.DataFrame:
    """Runs with a validation exact match and a test exact match."""
    return pd.DataFrame(
        [
            {
                "name": name,
                "kind": kind,
                "validation_exact_match": validation,
                "validation_loss": 2.0,
                "test_exact_match": test,
            }
            for name, validation, test in scores
        ]
    )


@pytest.fixture(scope="module")
def params() -> Params:
    return big_params(sort_by="exact_match")


def test_the_best_is_chosen_on_validation_whatever_test_says(params: Params) -> None:
    scores = (("len2-random-seed0", 0.6, 0.1), ("len4-random-seed0", 0.5, 0.9))
    for kind in ("variant", "baseline"):
        table = runs(*scores, kind=kind)
        assert best_run(table, kind, params) == "len2-random-seed0"
        assert best_setting(table, kind, params) == "len2-random-seed0"
    assert best_run(table, "variant", params) is None
    assert list(best_first(table, params)["validation_exact_match"]) == [0.6, 0.5]


def test_a_lucky_seed_does_not_make_its_setting_the_best(params: Params) -> None:
    table = runs(
        *(("len2-random-seed0", 0.9, 0.1), ("len2-random-seed1", 0.1, 0.1)),
        *(("len4-random-seed0", 0.6, 0.1), ("len4-random-seed1", 0.7, 0.1)),
        # A training size is a setting of its own.
        *(("len4-random-seed0-train3", 0.6, 0.1), ("len4-random-seed1-train3", 0.6, 0.1)),
    )
    assert best_run(table, "variant", params) == "len4-random-seed1"


def test_a_setting_with_a_seed_that_is_no_number_is_not_the_mean_of_the_others() -> None:
    params, nan = big_params(sort_by="loss"), float("nan")
    losses = {"len2-random-seed0": 0.1, "len2-random-seed1": nan, "len4-random-seed0": 0.9}
    table = runs(*((name, 0.5, 0.1) for name in losses))
    table["validation_loss"] = list(losses.values())
    assert best_run(table, "variant", params) == "len4-random-seed0"
    assert list(best_first(table, params)["name"])[-1] == "len2-random-seed1"


def test_those_alike_are_told_apart_by_loss_and_then_by_name(params: Params) -> None:
    table = runs(*((f"len{p}-random-seed0", 0.5, 0.1) for p in (8, 4, 2)))
    assert best_run(table, "variant", params) == "len2-random-seed0"
    table.loc[1, "validation_loss"] = 1.9
    assert best_run(table, "variant", params) == "len4-random-seed0"
    # The mean of the same scores in another order.
    scores = {4: (0.1, 0.2, 0.3), 2: (0.3, 0.2, 0.1)}
    alike = runs(
        *(
            (f"len{p}-random-seed{seed}", score, 0.1)
            for p, of_seeds in scores.items()
            for seed, score in enumerate(of_seeds)
        )
    )
    assert best_run(alike, "variant", params) == "len2-random-seed0"


@pytest.mark.slow
def test_equal_variants_are_seldom_called_better_and_their_intervals_hold() -> None:
    found = false_winners(50, World(variants=48, resamples=300))
    assert found["better"] <= 0.06
    assert found["any"] <= 0.06
    assert found["held"] >= 0.93
    assert abs(found["above"]) < 0.015
    # What it would be otherwise: the simulation does tell.
    assert found["before better"] > 0.15
    assert found["before held"] < 0.7
    assert found["before above"] > 0.09


@pytest.mark.slow
@pytest.mark.parametrize(("examples", "before"), [(80, 0.0), (1000, 0.2)])
def test_equal_methods_over_three_seeds_seldom_differ(examples: int, before: float) -> None:
    world = World(seeds=3, spread=0.03, examples=examples, resamples=300)
    found = differences(40, world)
    assert found["differ"] <= 0.06
    assert found["before differ"] >= before


@pytest.mark.slow
def test_a_difference_of_fifteen_points_over_three_seeds_is_found() -> None:
    world = World(seeds=3, spread=0.03, examples=1000, better=0.15, resamples=300)
    assert differences(15, world)["differ"] > 0.9


def test_a_table_of_one_variant_and_no_baseline_has_a_best(params: Params) -> None:
    one: Any = runs(("len2-random-seed0", 0.0, 0.0))
    assert best_run(one, "variant", params) == "len2-random-seed0"
