"""What differs from run to run, beside the timings themselves: a page, a table and a picture.

They are no outputs of DVC's, which are the same on every run; a restored variant has no timing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from pipeline.comparison.budget_tables import within_seconds
from pipeline.comparison.choice import setting_of
from pipeline.comparison.page_table import Cell, Column, PageRow, PageTable
from pipeline.comparison.plots.by_cost import by_training_seconds
from pipeline.comparison.plots.embedding import Embedded, Embedding
from pipeline.comparison.plots.still import save
from pipeline.comparison.plots.subject import Subject
from pipeline.comparison.rendering import render
from pipeline.comparison.tables import as_sections, judged_by, shown_name, sorted_by
from pipeline.config import Params
from pipeline.metrics.table import METRICS
from pipeline.storage.atomic import atomic_file
from pipeline.storage.records import write_text
from pipeline.workspace.timings import read_timing

TABLE, PICTURE, PAGE = "timings.md", "quality_by_training_seconds.png", "timings.html"

_FIGURES = {
    "training_seconds": "training (s)",
    "start_seconds": "of these, making the start (s)",
    "search_seconds": "of these, the rate's search (s)",
    "training_tokens_per_second": "training (tokens/s)",
    "evaluation_seconds": "evaluation (s)",
    "decoding_tokens_per_second": "decoding (tokens/s)",
    "merged_decoding_tokens_per_second": "merged: decoding (tokens/s)",
    "first_token_ms": "first token (ms)",
    "merged_first_token_ms": "merged: first token (ms)",
}
_NOTE = (
    "Wall-clock times of this machine; empty for what was restored and not run here. First token: "
    "from a query alone to the choice of its answer's first token, the prefix or text before it "
    "kept in the cache; the median of a few. Merged: with LoRA's matrices added to the weights, "
    "which says the same but for rounding; of one batch of the last split."
)


def write_timings(
    params: Params, table: pd.DataFrame, seeds: pd.DataFrame, folder: Path
) -> list[Path]:
    """Write `timings.md` and, where trainings were timed, the picture, and the page with both.

    Returns what it wrote.
    """
    metric = METRICS[params.report.sort_by]
    timings = {name: read_timing(name) for name in table["name"]}
    shown = [key for key in _FIGURES if any(key in timing for timing in timings.values())]
    cells = [
        [
            Cell(shown_name(row)),
            Cell(metric.shown(row[params.report.judged_by]), value=row[params.report.judged_by]),
            *(_cell(timings[row["name"]].get(figure)) for figure in shown),
        ]
        for row in table.to_dict("records")
    ]
    headers = ["name", judged_by(params), *(_FIGURES[figure] for figure in shown)]
    rows = [[cell.text for cell in row] for row in cells]
    text = tabulate(rows, ["", *headers[1:]], tablefmt="github", disable_numparse=True)
    sentences = first_token(table, timings)
    by_budget = within_seconds(seeds, timings, params)
    budgets = [] if by_budget is None else [by_budget]
    parts = [*sentences, text, _NOTE, *([as_sections(budgets)] if budgets else [])]
    write_text(folder / TABLE, "\n\n".join(parts) + "\n")
    written = [folder / TABLE]
    embedding = Embedding()
    pictures: list[Embedded] = []
    timed = table.assign(
        training_seconds=[t.get("training_seconds", 0.0) for t in timings.values()]
    )
    if (timed["training_seconds"] > 0).any():
        of_setting = timed.groupby(timed["name"].map(setting_of))["training_seconds"].mean()
        with_seconds = seeds.assign(training_seconds=seeds["name"].map(of_setting))
        subject = Subject(timed, with_seconds, pd.DataFrame(), params.report.split, metric)
        chart = by_training_seconds(subject)
        with atomic_file(folder / PICTURE) as aside:
            save(chart, aside, params.report.dpi)
        written.append(folder / PICTURE)
        pictures.append(embedding.add(chart, subject.against("training time")))
    facts = {
        "sentences": sentences,
        "table": _page_table(headers, cells, table, params),
        "sorted_by": sorted_by(params),
        "budgets": budgets,
        "pictures": pictures,
        "embedding": embedding,
    }
    write_text(folder / PAGE, render(f"{PAGE}.jinja", facts, escaped=True))
    return [*written, folder / PAGE]


def first_token(table: pd.DataFrame, timings: Mapping[str, Mapping[str, float]]) -> list[str]:
    """How long a query waits with the best prefix, without one, and after a text, in a sentence.

    No sentence where the best prefix was not measured here.
    """
    timed = [
        (row, timings[row["name"]]["first_token_ms"])
        for row in table.to_dict("records")
        if "first_token_ms" in timings[row["name"]]
    ]
    best = next(((row, ms) for row, ms in timed if row["is_best"]), None)
    if best is None:
        return []
    row, ms = best
    parts = [f"after {ms:.1f} ms with {row['name']}"]
    baselines = [(other, time) for other, time in timed if other["kind"] == "baseline"]
    bare = next((pair for pair in baselines if _is_bare(pair[0])), None)
    if bare is not None:
        parts.append(f"after {bare[1]:.1f} ms without a prefix")
    text = next((pair for pair in baselines if pair[0]["length"] > row["length"]), None)
    if text is not None:
        parts.append(
            f"after {text[1]:.1f} ms with the {text[0]['length']:,} tokens of "
            f"{text[0]['name']} before it, which are in the cache already"
        )
    listed = ", and ".join([", ".join(parts[:-1]), parts[-1]] if parts[:-1] else parts)
    return [f"A query has the first token of its answer {listed}."]


def _is_bare(row: Mapping[Any, Any]) -> bool:
    """The model as it is: nothing before a query, nothing trained."""
    return row["length"] == 0 and not row["trainable_parameters"] > 0


def _cell(figure: float | None) -> Cell:
    return Cell("") if figure is None else Cell(f"{figure:,.1f}", value=figure)


def _page_table(
    headers: Sequence[str], cells: Sequence[list[Cell]], table: pd.DataFrame, params: Params
) -> PageTable:
    columns = [Column(header, header, is_number=place > 0) for place, header in enumerate(headers)]
    rows = [PageRow.of(row, own) for row, own in zip(table.to_dict("records"), cells, strict=True)]
    return PageTable(columns, rows, _NOTE, "", params.report.ascending)
