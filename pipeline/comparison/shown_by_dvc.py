"""What DVC shows of a comparison: `dvc metrics show` a row a run, `dvc exp show` the best one."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config import Params
from pipeline.metrics.metric import Form
from pipeline.metrics.table import METRICS
from pipeline.storage.atomic import atomic_folder
from pipeline.storage.records import write_json
from pipeline.sweep.grid import all_rows

MOST_COLUMNS = 8
"""Columns of the table that `dvc metrics show` prints, the rows' paths among them."""

MOST_CHARACTERS = 120
"""The width of that table."""

_BETWEEN, _BESIDE_A_NAME = 2, 2
"""Spaces between two of its columns, and those that DVC leaves behind a column's name besides."""


def write_for_dvc(table: pd.DataFrame, params: Params, rows: Path, best: Path) -> None:
    """Write the scores of every run of the summary to a file of its own in the folder `rows`.

    A path is a row of `dvc metrics show`, a key a column. `best` gets those of the best prefix, as
    keys that no row has, which `dvc exp show` prints without a path.
    """
    columns = shown_columns(params, rows)
    runs = table.to_dict("records")
    with atomic_folder(rows) as folder:
        for run in runs:
            write_json(folder / file_of(run["name"]), _scores(run, columns))
    (winner,) = (run for run in runs if run["is_best"])
    write_json(best, {"best": {"variant": winner["name"], **_scores(winner, columns)}})


def file_of(name: str) -> str:
    """The name of a run's file."""
    return f"{name}.json"


def shown_columns(params: Params, rows: Path) -> dict[str, tuple[str, str]]:
    """The columns by name, each with its split and metric.

    What the best are chosen by comes first: on validation, on `report.split`, on other splits.
    Then the other metrics of `report.split`, and those of other splits, none that restates
    another; as many as `MOST_COLUMNS` and `MOST_CHARACTERS` leave room for. A name without a split
    is of `report.split`.
    """
    report = params.report
    others = [split for split in params.evaluate.splits if split != report.split]
    wanted = [(split, report.sort_by) for split in ("validation", report.split, *others)]
    wanted += [(split, name) for split in (report.split, *others) for name in params.metrics]
    left_out = METRICS[report.sort_by].restates
    path = max(len(str(rows / file_of(row.name))) for row in all_rows(params))
    columns: dict[str, tuple[str, str]] = {}
    for split, name in wanted:
        restates = name == left_out or METRICS[name].restates is not None
        if restates and name != report.sort_by:
            continue
        more = {**columns, name if split == report.split else f"{split}_{name}": (split, name)}
        fits = len(more) < MOST_COLUMNS and path + _characters(more) <= MOST_CHARACTERS
        # What is chosen by, and what says how good that is, are there in any case.
        if fits or len(more) <= 2:
            columns = more
    return columns


def _characters(columns: dict[str, tuple[str, str]]) -> int:
    """The width of these columns as DVC prints them, by name; the last ends with its text."""
    names = sorted(columns)
    return sum(
        _BETWEEN
        + max(
            len(name) + (0 if name == names[-1] else _BESIDE_A_NAME),
            _digits(METRICS[columns[name][1]].form),
        )
        for name in names
    )


def _scores(run: dict[Any, Any], columns: dict[str, tuple[str, str]]) -> dict[str, float]:
    return {
        column: round(float(run[f"{split}_{name}"]), _decimals(METRICS[name].form))
        for column, (split, name) in columns.items()
    }


def _decimals(form: Form) -> int:
    """Decimals of a score in its own unit: a digit more than tables show."""
    return form.digits + round(math.log10(form.factor)) + 1


def _digits(form: Form) -> int:
    """Characters of a score: two digits, the point, its decimals."""
    return 3 + _decimals(form)
