"""Who is best for the same money: within so many steps or seconds, parameters or bytes.

A comparison of methods that cost unlike amounts says little until one of the costs is held equal.
What is best is chosen on validation throughout, and a test score is that of what was chosen.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from pipeline.comparison.choice import best_first
from pipeline.config import Params

MOST = 6
"""Budgets of steps or of seconds that a table shows at once."""

_ALIKE = 1.05
"""Amounts whose ratio is below it are one budget: that of the largest."""


def budgets_of(amounts: Iterable[float]) -> list[float]:
    """What to compare at: a quarter and a half of the least of these amounts, and the amounts.

    Of amounts that are nearly the same the largest alone, since all are done by then; of more than
    `MOST` the first ones, and of the others evenly as many as there is room for, the largest too.
    """
    apart = [amount for amount in _unlike(amounts) if amount > 0]
    room = MOST - 2
    if len(apart) > room:
        apart = [apart[round(i * (len(apart) - 1) / (room - 1))] for i in range(room)]
    return [apart[0] / 4, apart[0] / 2, *apart] if apart else []


def _unlike(amounts: Iterable[float]) -> list[float]:
    """Amounts, ascending; of those that are nearly the same the largest alone."""
    following = pairwise([*sorted(amounts), float("inf")])
    return [amount for amount, larger in following if amount * _ALIKE <= larger]


def reached(measured: pd.DataFrame, budgets: Sequence[float]) -> pd.DataFrame:
    """The lowest validation loss that each setting had reached within each budget.

    `measured` has a row a validation: setting, run, spent (of what the budgets are of) and loss.
    The result has a row a setting and a column a budget: the mean over the setting's runs, of
    which each counts the lowest of its validations that had cost no more. A run's weights of then
    are what a training that ends there, and keeps its best, would give, but for the schedule of its
    learning rate.
    """
    found: dict[str, list[float]] = {}
    for setting, runs in measured.groupby("setting", sort=False):
        within = [runs[runs["spent"] <= budget].groupby("run")["loss"].min() for budget in budgets]
        # A run without any validation by then leaves the setting without a mean.
        all_runs = runs["run"].nunique()
        found[str(setting)] = [
            float(losses.mean()) if len(losses) == all_runs else float("nan") for losses in within
        ]
    return pd.DataFrame.from_dict(found, orient="index", columns=list(budgets))


def best_within(settings: pd.DataFrame, cost: str, params: Params) -> pd.DataFrame:
    """The best setting of each method that costs no more than a budget, for each budget.

    `settings` are rows of the table over seeds with a column `method`; budgets are the settings'
    own costs, of those that are nearly the same the largest: some starts note a few bytes beside
    keys and values. A row of the result is one of `settings` with `budget`, and `is_best`, whether
    it is the best of all methods within that budget. Budgets within which nothing better came are
    left out.
    """
    rows: list[dict[Any, Any]] = []
    before: list[str] = []
    methods = list(dict.fromkeys(settings["method"]))
    for budget in _unlike(settings[cost].unique()):
        within = settings[settings[cost] <= budget]
        chosen = [
            best_first(within[within["method"] == method], params).iloc[0]
            for method in methods
            if (within["method"] == method).any()
        ]
        names = [str(row["name"]) for row in chosen]
        if names == before:
            continue
        before = names
        # Rows of several tables, whose numbers there are not unique here.
        together = pd.DataFrame(chosen).reset_index(drop=True)
        best = best_first(together, params)["name"].iloc[0]
        rows += [
            {**row.to_dict(), "budget": budget, "is_best": row["name"] == best} for row in chosen
        ]
    return pd.DataFrame(rows)
