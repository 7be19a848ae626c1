"""What is chosen among what is compared: by `report.sort_by` on validation, never on test.

The best of many scores of one test split is better by luck as well: of 48 equal variants on 80
examples by about ten points of a rate of a half. Its test score is honest where test had no part
in choosing it.
"""

import re

import pandas as pd

from pipeline.config import Params


def best_first(table: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Rows sorted by the validation score; those alike by validation loss, then by name."""
    keys = _keys(params)
    # Means of the same scores in another order round differently; that is no difference.
    rounded = table.assign(**{key: table[key].round(12) for key in keys})
    ascending = [params.report.ascending, *(True for _ in keys)]
    order = rounded.sort_values([*keys, "name"], ascending=ascending).index
    return table.loc[order].reset_index(drop=True)


def best_setting(table: pd.DataFrame, kind: str, params: Params) -> str | None:
    """The name of the best row of a kind (variant or baseline); None where there is none."""
    of_kind = table[table["kind"] == kind]
    return None if of_kind.empty else str(best_first(of_kind, params)["name"].iloc[0])


def best_run(table: pd.DataFrame, kind: str, params: Params) -> str | None:
    """The run of a kind that stands for the best setting: of its seeds the best.

    A setting is judged by the mean over its seeds, so that one lucky seed does not make it best.
    """
    of_kind = table[table["kind"] == kind]
    settings = of_kind["name"].map(setting_of)
    # The mean of a seed that is not a number is none, and comes last.
    grouped = of_kind.groupby(settings)[_keys(params)]
    means = grouped.mean(skipna=False).rename_axis("name").reset_index()
    best = best_setting(means.assign(kind=kind), kind, params)
    return best_setting(of_kind[settings == best], kind, params)


def setting_of(run: str) -> str:
    """The name of what a run shares with those that differ in the seed alone."""
    return re.sub(r"-seed\d+", "", run)


def _keys(params: Params) -> list[str]:
    return list(dict.fromkeys((params.report.chosen_by, "validation_loss")))
