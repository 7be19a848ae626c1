"""All that params.yaml compares: every variant of the sweep, and every baseline."""

import itertools
from typing import Any

from pipeline.config import Params
from pipeline.sweep.baselines import IN_CONTEXT, Baseline
from pipeline.sweep.variants import Variant


def sweep(params: Params) -> list[Variant]:
    """All variants of params.yaml, in the order of its lists.

    First those of the whole training split at `train.learning_rate`, then each training size, then
    each further rate.
    """
    own = params.sweep
    points = list(itertools.product(own.lengths, own.initializations, own.seeds))
    plain = [Variant(*point) for point in points]
    sized = [Variant(*point, train_size=size) for size in own.train_sizes for point in points]
    at_rates = [Variant(*point, learning_rate=r) for r in own.learning_rates for point in points]
    return [*plain, *sized, *at_rates]


def all_baselines(params: Params) -> list[Baseline]:
    """All of params.yaml: single ones, texts in the context at each length, trained ones."""
    sweep = params.sweep
    return [
        *(Baseline(name) for name in params.baselines),
        *(Baseline(IN_CONTEXT + n, length=p) for n in sweep.in_context for p in sweep.lengths),
        *(
            Baseline(name, seed=seed, train_size=size)
            for name in params.trained_baselines
            for size in (None, *sweep.train_sizes)
            for seed in sweep.seeds
        ),
    ]


def all_rows(params: Params) -> list[Variant | Baseline]:
    """All that is compared: variants, then baselines."""
    return [*sweep(params), *all_baselines(params)]


def kind_of(params: Params, name: str) -> str:
    """`variant` for an adapter from elsewhere, a prefix as those trained here; else `baseline`."""
    definition = params.baselines.get(name)
    return "variant" if definition is not None and definition.is_variant else "baseline"


def definition_of(params: Params, baseline: Baseline) -> dict[str, Any]:
    """What params.yaml says of a baseline."""
    if baseline.length is not None:
        return params.initializations[baseline.family.removeprefix(IN_CONTEXT)].model_dump()
    if baseline.seed is not None:
        return params.trained_baselines[baseline.family].model_dump()
    return params.baselines[baseline.family].model_dump()
