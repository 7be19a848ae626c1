"""A table on the screen, and the same as JSON beside the other results."""

import json
from pathlib import Path

import click
from tabulate import tabulate

RESULTS = Path(__file__).resolve().parent.parent / "results"


def show(name: str, rows: list[dict[str, str | float]]) -> None:
    """Print rows of one kind as Markdown, and write them to `benchmarks/results/growth_<name>`."""
    shown = [[_text(value) for value in row.values()] for row in rows]
    click.echo(tabulate(shown, list(rows[0]), tablefmt="github", disable_numparse=True))
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rows, indent=2) + "\n"
    (RESULTS / f"growth_{name}.json").write_text(text, encoding="utf-8")


def _text(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"
    return f"{value:,}" if isinstance(value, int) else value
