"""How far apart the methods of a study are, with intervals over their seeds."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import sqrt
from typing import Any

import pandas as pd
from scipy.stats import t

from benchmarks.quality.study import Study
from benchmarks.quality.table import MEASURED, heading, rounded


def differences(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a study's table beside each other that differ in `study.compares` alone.

    A row for each two of them, with the differences of their means (the first less the second) as
    text, each with its 95% interval by Welch's t-test over seeds. Rows of one seed are left out; a
    study that compares nothing has no row.
    """
    if study.compares is None:
        return pd.DataFrame()
    apart = {heading(key) for key in (study.compares, study.chosen_by_validation) if key}
    alike = [heading(key) for key in study.rows if heading(key) not in apart]
    several = table[table["seeds"] > 1]
    groups = several.groupby(alike, dropna=False, sort=False) if alike else [((), several)]
    rows = [
        {**dict(zip(alike, values, strict=True)), **difference}
        for values, group in groups
        for difference in _of_each_two(heading(study.compares), group)
    ]
    return pd.DataFrame(rows)


def _of_each_two(compared: str, group: pd.DataFrame) -> Iterator[dict[str, Any]]:
    measured = [name for name in MEASURED if name in group]
    for first, second in combinations(group.to_dict("records"), 2):
        shown = {name: _difference(name, first, second) for name in measured}
        yield {"difference": f"{first[compared]} - {second[compared]}", **shown}


def _difference(name: str, first: Mapping[Any, Any], second: Mapping[Any, Any]) -> str:
    difference = first[name] - second[name]
    if difference != difference:
        return ""
    seeds = [int(row["seeds"]) for row in (first, second)]
    variances = [row[f"{name} ±"] ** 2 / row["seeds"] for row in (first, second)]
    within = _half_width(variances, seeds)
    low, high = (rounded(name, bound) for bound in (difference - within, difference + within))
    return f"{rounded(name, difference)} [{low}, {high}]"


def _half_width(variances: Sequence[float], seeds: Sequence[int]) -> float:
    """Of the 95% interval of two means' difference, where the means have these variances."""
    spread = sum(variances)
    if spread == 0:
        return 0.0
    freedom = spread**2 / sum(v**2 / (n - 1) for v, n in zip(variances, seeds, strict=True))
    return float(t.ppf(0.975, freedom)) * sqrt(spread)
