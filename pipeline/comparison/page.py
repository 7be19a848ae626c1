"""The report as one self-contained HTML page, and as Markdown."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

import pandas as pd
from jinja2 import FileSystemLoader, StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup

from pipeline.comparison.conclusion import conclude
from pipeline.comparison.inspected import inside_of, start_words
from pipeline.comparison.plots.embedding import Embedding, digest, drawing_script
from pipeline.comparison.plots.style import Chart
from pipeline.comparison.plots.table import pictures_of_page
from pipeline.comparison.side_by_side import side_by_side
from pipeline.comparison.summary import ByName
from pipeline.comparison.tables import ShownTable, shown_over_seeds, shown_summary, sorted_by
from pipeline.config import Params
from pipeline.config.shown import shown_params
from pipeline.errors import PipelineError
from pipeline.storage.records import read_json, write_text
from pipeline.workspace import paths

HTML, MARKDOWN = "report.html", "report.md"

SECTIONS = (
    *("model", "data", "task", "initializations", "sweep", "kv_prefix", "prefix", "train"),
    *("evaluate", "baselines", "trained_baselines", "report"),
)
"""The params that the page shows; dvc.yaml lists them under `report`, so that they are today's."""

_LIBRARIES = (
    *("torch", "transformers", "tokenizers", "safetensors", "datasets", "peft", "sacrebleu"),
    *("rouge-score", "numpy", "pandas", "altair", "vl-convert-python", "dvc", "mlflow"),
)
_TEMPLATES = Path(__file__).parent / "templates"


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
        write_text(folder / name, _render(f"{name}.jinja", facts, escaped))


def _facts(
    params: Params,
    table: pd.DataFrame,
    seeds: pd.DataFrame,
    statistics: ByName,
    best: str,
    charts: Mapping[str, Chart],
) -> dict[str, Any]:
    shown = shown_summary(table, params)
    facts: dict[str, Any] = {
        "conclusion": conclude(table, seeds, statistics, params, _validation_examples()),
        "sorted_by": sorted_by(params),
        "runs": _with_costs(shown, table),
        "run_kinds": _kinds(table),
        "seeds": None,
        "pictures": pictures_of_page(params),
        "embedding": Embedding(),
        "charts": charts,
        "split": params.report.split,
        "examples": side_by_side(list(table["name"]), params),
        "params": shown_params(params, SECTIONS),
        "versions": _versions(),
        "best": best,
        "inside": inside_of(best),
        "starts": start_words(),
    }
    if len(seeds) < len(table):
        facts["seeds"] = _with_costs(shown_over_seeds(seeds, params), seeds)
        facts["seed_kinds"] = _kinds(seeds)
    return facts


def _with_costs(shown: ShownTable, table: pd.DataFrame) -> ShownTable:
    """A shown table with two more columns: what was trained, and what is stored.

    A p value stands beside the names, where no scrolling hides it.
    """
    costs = [
        [_count(row["trainable_parameters"]), _count(row["stored_bytes"])]
        for row in table.to_dict("records")
    ]
    rows = [[*row, *cost] for row, cost in zip(shown.rows, costs, strict=True)]
    headers = [*shown.headers, "trained numbers", "stored bytes"]
    order = sorted(range(len(headers)), key=lambda i: (i > 0, not headers[i].startswith("p (")))
    return ShownTable(
        [headers[i] or "name" for i in order], [[row[i] for i in order] for row in rows], shown.note
    )


def _kinds(table: pd.DataFrame) -> list[str]:
    """Each row's style: winner, variant or baseline."""
    return list(table["kind"].mask(table["is_best"], "winner"))


def _validation_examples() -> int:
    return int(read_json(paths.TOKENIZED / "statistics.json")["validation"]["examples"])


def _count(value: float | None) -> str:
    return "" if value is None or value != value else f"{int(value):,}"


def _source(name: str) -> Markup:
    """A script or style sheet of the templates, as it is."""
    return Markup((_TEMPLATES / name).read_text("utf-8"))


def _versions() -> list[tuple[str, str]]:
    found = [("python", python_version())]
    for library in _LIBRARIES:
        try:
            found.append((library, version(library)))
        except PackageNotFoundError:
            continue
    return found


def _render(name: str, facts: dict[str, Any], escaped: bool) -> str:
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    environment.globals |= {"source": _source, "drawing_script": drawing_script, "digest": digest}
    environment.filters["markdown_table"] = ShownTable.markdown
    try:
        return environment.get_template(name).render(facts)
    except TemplateError as error:
        raise PipelineError(f"{_TEMPLATES / name}: {error}") from error


def _cell(text: str) -> str:
    """A text inside a cell of a Markdown table."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return "<br>".join(escaped.splitlines())
