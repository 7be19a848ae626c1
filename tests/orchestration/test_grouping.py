"""Which trainings a worker may train together."""

from types import SimpleNamespace
from typing import Any

from pipeline.orchestration.grouping import alike


def stage(addressing: str) -> Any:
    return SimpleNamespace(addressing=addressing)


def test_variants_train_with_those_whose_batches_are_theirs() -> None:
    """At a number together with others at numbers, whatever is searched beside them."""
    plain, other = stage("train@8-random-0"), stage("train@32-corpus-1")
    at_rates = stage("train_at_rate@8-random-0-0.01"), stage("train_at_rate@32-corpus-0-1e-05")
    assert alike(plain, other, same_seed=False)
    assert alike(*at_rates, same_seed=False)
    assert not alike(plain, at_rates[0], same_seed=False)
    assert not alike(at_rates[0], plain, same_seed=False)
    for name in ("train_subset@8-random-0-50", "train_baseline@lora-0", "evaluate@8-random-0"):
        assert not alike(stage(name), stage(name), same_seed=False)
