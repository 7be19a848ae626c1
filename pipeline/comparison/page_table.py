"""The tables of the page: cells that sort by their numbers, in as many columns as fit.

Scores are those of `tables`, an interval in a line of its own; what fits no page of 1280 pixels is
shown on demand.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.comparison.tables import shown_bytes, shown_columns, shown_interval, shown_name
from pipeline.config import Params
from pipeline.metrics.table import METRICS

MAIN = 10
"""Columns that are shown at once, the name among them."""


@dataclass(frozen=True)
class Cell:
    """A text with lines below it; sorted by `value`, or by the text where that is None."""

    text: str
    below: tuple[str, ...] = ()
    value: float | None = None


@dataclass(frozen=True)
class Column:
    """A column's header in two lines; `key` is what it is made from."""

    key: str
    title: str
    above: str = ""
    is_main: bool = True
    is_number: bool = True


@dataclass(frozen=True)
class PageRow:
    """A row with what filters go by; `style` is winner, variant or baseline."""

    cells: list[Cell]
    style: str
    kind: str
    length: int
    initialization: str

    @classmethod
    def of(cls, row: Mapping[Any, Any], cells: list[Cell]) -> "PageRow":
        """A row of the summary, or of the table over seeds, with these cells."""
        return cls(
            cells,
            "winner" if row["is_best"] else row["kind"],
            "prefix" if row["kind"] == "variant" else "baseline",
            int(row["length"]),
            str(row["initialization"]),
        )


@dataclass(frozen=True)
class PageTable:
    """`sorted_by` is the key of the column by which the rows come, best first."""

    columns: list[Column]
    rows: list[PageRow]
    note: str
    sorted_by: str
    is_ascending: bool


def page_table(table: pd.DataFrame, note: str, params: Params) -> PageTable:
    """Of the summary, or of the table over seeds, which has a column `seeds`."""
    columns = list(_columns(table, params))
    rows = [
        PageRow.of(row, [_cell(row, column.key, params) for column in columns])
        for row in table.to_dict("records")
    ]
    return PageTable(columns, rows, note, params.report.chosen_by, params.report.ascending)


def _columns(table: pd.DataFrame, params: Params) -> Iterator[Column]:
    """In the order of the table; the first few by weight are the main ones."""
    scores = shown_columns(params)
    score_keys = [f"{split}_{metric}" for split, metric in scores]
    p_value = f"{params.report.judged_by}_p_value"
    of_split = [key for key, (split, _) in zip(score_keys, scores, strict=True)
                if split == params.report.split]  # fmt: skip
    by_weight = [
        *("name", params.report.chosen_by, params.report.judged_by, p_value, "length"),
        *("seeds", "cache_bytes", *of_split, *score_keys),
    ]
    titles = {
        "name": ("", "name"),
        "length": ("", "length"),
        "seeds": ("", "seeds"),
        **{
            key: (split.replace("_", " "), METRICS[metric].title)
            for key, (split, metric) in zip(score_keys, scores, strict=True)
        },
        p_value: ("against baseline", "p"),
        "cache_bytes": ("", "cache"),
        "learning_rate": ("learning", "rate"),
        "trainable_parameters": ("trained", "numbers"),
        "stored_bytes": ("stored", "bytes"),
    }
    # A column that no row has anything in is none.
    held = [key for key in titles if key in table and table[key].notna().any()]
    ranked = [key for key in dict.fromkeys(by_weight) if key in held]
    for key in held:
        above, title = titles[key]
        yield Column(key, title, above, key in ranked[:MAIN], key != "name")


def _cell(row: dict[Any, Any], key: str, params: Params) -> Cell:
    value = row[key]
    metric = next((METRICS[name] for name in METRICS if key in _named(name, params)), None)
    if value is None or value is pd.NA or value != value:
        # Every row has its scores: one that is no number is that of a training gone wrong.
        return Cell("" if metric is None else "nan")
    if key == "name":
        return Cell(shown_name(row))
    if key in ("cache_bytes", "stored_bytes"):
        return Cell(shown_bytes(value), value=float(value))
    if key == "learning_rate":
        return Cell(f"{value:g}", value=float(value))
    if key.endswith("_p_value"):
        return Cell(f"{value:.3f}", value=float(value))
    if key in ("length", "seeds", "trainable_parameters"):
        return Cell(f"{int(value):,}", value=float(value))
    assert metric is not None, key
    below = []
    spread = row.get(f"{key}_std", float("nan"))
    if spread == spread:
        below.append(f"± {metric.shown(spread)}")
    if key == f"{params.report.split}_{metric.name}":
        below.append(shown_interval(row, key, metric.name).strip())
    return Cell(metric.shown(value), tuple(line for line in below if line), float(value))


def _named(metric: str, params: Params) -> set[str]:
    return {f"{split}_{metric}" for split in params.evaluate.measured_splits}
