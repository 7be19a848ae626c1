"""The report as one self-contained HTML page, and as Markdown."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

import pandas as pd

from pipeline.comparison.budget_tables import budget_tables
from pipeline.comparison.conclusion import conclude
from pipeline.comparison.inspected import inside_of, start_words
from pipeline.comparison.page_table import page_table
from pipeline.comparison.plots.embedding import Embedding
from pipeline.comparison.plots.style import Chart
from pipeline.comparison.plots.table import pictures_of_page
from pipeline.comparison.rate_tables import rate_tables
from pipeline.comparison.rendering import render
from pipeline.comparison.side_by_side import side_by_side
from pipeline.comparison.summary import ByName
from pipeline.comparison.tables import shown_over_seeds, shown_summary, sorted_by
from pipeline.config import Params
from pipeline.config.shown import shown_params
from pipeline.metrics.table import METRICS
from pipeline.storage.records import read_json, write_text
from pipeline.workspace import paths

HTML, MARKDOWN = "report.html", "report.md"

SECTIONS = (
    *("model", "data", "task", "initializations", "sweep", "kv_prefix", "prefix", "train"),
    *("evaluate", "baselines", "trained_baselines", "report"),
)
"""The params that the page shows; dvc.yaml lists them under `report`, so that they are today's."""

OPEN = 8
"""Examples that the page shows unfolded."""

IN_MARKDOWN = 10
"""Examples of the Markdown, spread evenly over those of the page."""

_LIBRARIES = (
    *("torch", "transformers", "tokenizers", "safetensors", "datasets", "peft", "sacrebleu"),
    *("rouge-score", "numpy", "pandas", "altair", "vl-convert-python", "dvc", "mlflow"),
)


def write_page(
    params: Params,
    table: pd.DataFrame,
    seeds: pd.DataFrame,
    statistics: ByName,
    best: str,
    charts: Mapping[str, Chart],
    folder: Path,
) -> None:
    """Write `report.html` and `report.md` into `folder`, whose `plots` hold the pictures.

    `best` is the run whose prefix lies in `folder/best`, `charts` are those of `plots.table`. The
    same tables give the same bytes: no date, duration or path of the machine is on the page.
    """
    facts = _facts(params, table, seeds, statistics, best, charts)
    for name, escaped in ((HTML, True), (MARKDOWN, False)):
        write_text(folder / name, render(f"{name}.jinja", facts, escaped))


def _facts(
    params: Params,
    table: pd.DataFrame,
    seeds: pd.DataFrame,
    statistics: ByName,
    best: str,
    charts: Mapping[str, Chart],
) -> dict[str, Any]:
    shown, over_seeds = shown_summary(table, params), shown_over_seeds(seeds, params)
    note = f"In brackets: 95% interval over examples and seeds. {over_seeds.note}"
    return {
        "conclusion": conclude(table, seeds, statistics, params, _validation_examples()),
        "sorted_by": sorted_by(params),
        "tables": {
            "runs": (page_table(table, shown.note, params), shown),
            "seeds": (page_table(seeds, note, params), over_seeds),
        },
        "has_seeds": len(seeds) < len(table),
        "rates": rate_tables(seeds, params),
        "budgets": budget_tables(seeds, params),
        "pictures": pictures_of_page(params),
        "embedding": Embedding(),
        "charts": charts,
        "split": params.report.split,
        "examples": side_by_side(table, statistics, params),
        "metric": METRICS[params.report.sort_by].title,
        "is_ascending": params.report.ascending,
        "open_examples": OPEN,
        "in_markdown": IN_MARKDOWN,
        "params": shown_params(params, SECTIONS),
        "versions": _versions(),
        "best": best,
        "inside": inside_of(best),
        "starts": start_words(),
    }


def _validation_examples() -> int:
    return int(read_json(paths.TOKENIZED / "statistics.json")["validation"]["examples"])


def _versions() -> list[tuple[str, str]]:
    found = [("python", python_version())]
    for library in _LIBRARIES:
        try:
            found.append((library, version(library)))
        except PackageNotFoundError:
            continue
    return found
