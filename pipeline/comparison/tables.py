"""The tables as Markdown, which a terminal shows as well."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import pandas as pd
from tabulate import tabulate

from pipeline.config import Params
from pipeline.metrics.table import METRICS

BEST_MARK = " *"
"""Stands behind what is best within a row, a column or a budget."""


@dataclass(frozen=True)
class ShownTable:
    """A table as text: a cell's row is the row of the table that it was made from."""

    headers: list[str]
    rows: list[list[str]]
    note: str

    def markdown(self) -> str:
        """GitHub's form, with the note below."""
        table = tabulate(self.rows, self.headers, tablefmt="github", disable_numparse=True)
        return f"{table}\n\n{self.note}"


@dataclass(frozen=True)
class TitledTable:
    """A table under a title; its note is the sentence that says how it is made."""

    title: str
    table: ShownTable


def as_sections(tables: Sequence[TitledTable]) -> str:
    """All of them as Markdown, a heading each."""
    return "\n\n".join(f"### {each.title}\n\n{each.table.markdown()}" for each in tables)


def as_markdown(table: pd.DataFrame, params: Params) -> str:
    """The summary as Markdown."""
    return shown_summary(table, params).markdown()


def over_seeds_as_markdown(table: pd.DataFrame, params: Params) -> str:
    """The table over seeds as Markdown."""
    return shown_over_seeds(table, params).markdown()


def shown_summary(table: pd.DataFrame, params: Params) -> ShownTable:
    """The summary: losses to 3 digits, rates in percent, intervals on `report.split`."""
    columns = shown_columns(params)
    rows = [
        [
            *_name(row, table),
            *(_with_interval(row, split, metric, params) for split, metric in columns),
            _p_value(row, params),
        ]
        for row in table.to_dict("records")
    ]
    note = f"In brackets: 95% interval over the examples of {params.report.split}."
    note = _note(note, "examples, for these very trainings", table)
    return _shown([], rows, note, table, params)


def shown_over_seeds(table: pd.DataFrame, params: Params) -> ShownTable:
    """The table over seeds: mean ± standard deviation of the seeds, where there are several."""
    columns = shown_columns(params)
    rows = [
        [
            *_name(row, table),
            str(row["seeds"]),
            *(with_spread(row, split, metric) for split, metric in columns),
            _p_value(row, params),
        ]
        for row in table.to_dict("records")
    ]
    several = bool((table["seeds"] > 1).any())
    drawn = "examples and seeds" if several else "examples, for these very trainings (one seed)"
    note = _note("Mean ± standard deviation over seeds.", drawn, table)
    return _shown(["seeds"], rows, note, table, params)


def sorted_by(params: Params) -> str:
    """What the best are chosen by, and tables sorted by, in words."""
    return f"validation {METRICS[params.report.sort_by].title}"


def judged_by(params: Params) -> str:
    """What says how good they are, in words."""
    return f"{params.report.split} {METRICS[params.report.sort_by].title}"


def _shown(
    more: list[str], rows: list[list[str]], note: str, table: pd.DataFrame, params: Params
) -> ShownTable:
    headers = [
        *("", "length", "cache"),
        *(["rate"] if _has_rates(table) else []),
        *more,
        *(f"{split} {METRICS[metric].title}" for split, metric in shown_columns(params)),
    ]
    headers.append(f"p ({judged_by(params)})")
    if not table["compared_with"].notna().any():
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    return ShownTable(headers, rows, note)


def shown_columns(params: Params) -> list[tuple[str, str]]:
    """What tables are sorted by, and every metric on reported splits.

    What another metric restates is left to the CSV table, unless it is what is sorted by.
    """
    sort_by = params.report.sort_by
    left_out = METRICS[sort_by].restates
    shown = [
        metric
        for metric in params.metrics
        if metric == sort_by or (metric != left_out and METRICS[metric].restates is None)
    ]
    columns = [(split, metric) for split in params.evaluate.splits for metric in shown]
    return list(dict.fromkeys([("validation", sort_by), *columns]))


def shown_name(row: dict[Any, Any]) -> str:
    """A row's name as tables show it: a baseline says that it is one."""
    return row["name"] if row["kind"] == "variant" else f"{row['name']} (baseline)"


def _name(row: dict[Any, Any], table: pd.DataFrame) -> list[str]:
    cells = [shown_name(row), str(row["length"]), shown_bytes(row["cache_bytes"])]
    if _has_rates(table):
        rate = row["learning_rate"]
        cells.append(f"{rate:g}" if rate == rate else "")
    return cells


def _has_rates(table: pd.DataFrame) -> bool:
    """Whether rows were trained at rates of their own; one for all stands in the params."""
    return bool(table["learning_rate"].nunique() > 1)


def shown_bytes(count: float) -> str:
    """A number of bytes in the unit that suits it."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _with_interval(row: dict[Any, Any], split: str, metric: str, params: Params) -> str:
    column = f"{split}_{metric}"
    value = METRICS[metric].shown(row[column])
    if split != params.report.split:
        return value
    return value + shown_interval(row, column, metric)


def shown_interval(row: dict[Any, Any], column: str, metric: str) -> str:
    """The brackets behind a score; nothing where there is no interval."""
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    # Of losses without end the resampled ones have none either.
    if not (isfinite(low) and isfinite(high)):
        return ""
    return f" [{METRICS[metric].number(low)}, {METRICS[metric].number(high)}]"


def with_spread(row: Mapping[Any, Any], split: str, metric: str) -> str:
    """A score of the table over seeds: their mean, ± their standard deviation if several."""
    column = f"{split}_{metric}"
    value, spread = row[column], row[f"{column}_std"]
    shown = METRICS[metric].shown(value)
    return shown if spread != spread else f"{shown} ± {METRICS[metric].shown(spread)}"


def _p_value(row: dict[Any, Any], params: Params) -> str:
    value = row.get(f"{params.report.judged_by}_p_value")
    return "" if value is None or value != value else f"{value:.3f}"


def _note(text: str, drawn: str, table: pd.DataFrame) -> str:
    text = f"{text} length, cache: tokens before each input, and their keys and values in memory."
    known = table["compared_with"].dropna()
    if known.empty:
        return text
    return (
        f"{text} p: of the difference from the best baseline on validation, {known.iloc[0]}, over "
        f"{drawn}; corrected for the {len(known)} prefixes compared with it (max T)."
    )
