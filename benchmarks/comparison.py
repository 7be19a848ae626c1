"""`python -m benchmarks.comparison`: the table by which a text in a prefix is judged.

Of a finished run, a row a variant and baseline (over its seeds): what a query costs with it and how
good the answers are. Read from `data/report/over_seeds.csv`; the time to a query's first token is
that of this machine's `data/timings`, the median over seeds, empty for what was restored.
"""

from pathlib import Path
from statistics import median
from typing import Any

import click
from tabulate import tabulate

from pipeline.comparison.choice import setting_of
from pipeline.comparison.tables import shown_bytes, shown_name
from pipeline.config import load_params
from pipeline.metrics.table import METRICS
from pipeline.storage.records import read_csv
from pipeline.workspace import paths
from pipeline.workspace.timings import read_timing

_FIRST = ("", "tokens before a query", "cache", "stored", "first token (ms)")


@click.command()
@click.option("--split", default=None, help="Default: report.split of params.yaml.")
def main(split: str | None) -> None:
    """Print the table in Markdown, best first by `report.sort_by` on validation."""
    path = paths.REPORT / "over_seeds.csv"
    if not path.exists():
        raise click.ClickException(f"{path} is not there; run `make repro`")
    params = load_params()
    split = split or params.report.split
    table = read_csv(path)
    metrics = [
        name
        for name in params.metrics
        if f"{split}_{name}" in table and METRICS[name].restates is None
    ]
    waits = _first_tokens(paths.EVALUATE)
    rows = [
        [*_cost(row, waits), *(METRICS[name].shown(row[f"{split}_{name}"]) for name in metrics)]
        for row in table.to_dict("records")
    ]
    headers = [*_FIRST, *(f"{split} {METRICS[name].title}" for name in metrics)]
    click.echo(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


def _first_tokens(folder: Path) -> dict[str, float]:
    """Milliseconds by a setting's name."""
    timed: dict[str, list[float]] = {}
    for path in sorted(folder.iterdir()):
        if (wait := read_timing(path.name).get("first_token_ms")) is not None:
            timed.setdefault(setting_of(path.name), []).append(wait)
    return {name: median(waits) for name, waits in timed.items()}


def _cost(row: dict[Any, Any], waits: dict[str, float]) -> list[str]:
    wait = waits.get(row["name"])
    return [
        shown_name(row),
        f"{int(row['length']):,}",
        shown_bytes(row["cache_bytes"]),
        shown_bytes(row["stored_bytes"]),
        "" if wait is None else f"{wait:.1f}",
    ]


if __name__ == "__main__":
    main()
