"""The summary table: a row a variant and a baseline, best first."""

from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.config import Params
from pipeline.records import read_csv, read_json
from pipeline.variants import sweep

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("loss", "perplexity", "exact_match", "token_f1", "accuracy", "f1")
HIGHER_IS_BETTER = frozenset({"exact_match", "token_f1", "accuracy", "f1"})


def summarize(params: Params) -> "pd.DataFrame":
    """The evaluation of everything that params.yaml lists.

    Columns: name, kind (variant or baseline), length in virtual tokens (of context for an
    in-context baseline), initialization, seed, trainable_parameters, and `<split>_<metric>` for
    each split evaluated. Sorted by `report.sort_by` on `report.split`, best first.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for variant in sweep(params):
        trained = read_json(paths.TRAIN / variant.name / "metrics.json")
        rows.append(
            {
                "name": variant.name,
                "kind": "variant",
                "length": variant.length,
                "initialization": variant.initialization,
                "seed": variant.seed,
                "trainable_parameters": trained["trainable_parameters"],
                **_flat(read_json(paths.EVALUATE / variant.name / "metrics.json")),
            }
        )
    for name in params.baselines:
        measured = read_json(paths.BASELINES / name / "metrics.json")
        rows.append(
            {
                "name": name,
                "kind": "baseline",
                "length": measured["context_tokens"],
                "trainable_parameters": 0,
                **_flat(measured),
            }
        )
    table = pd.DataFrame(rows).astype({"seed": "Int64"})
    key = f"{params.report.split}_{params.report.sort_by}"
    ascending = params.report.sort_by not in HIGHER_IS_BETTER
    return table.sort_values([key, "name"], ascending=[ascending, True], ignore_index=True)


def loss_curves(params: Params) -> "pd.DataFrame":
    """Training loss of every variant: columns series (its name), step, loss (mean of 10 steps).

    Single batches are too noisy to tell variants apart.
    """
    import pandas as pd

    tables = []
    for variant in sweep(params):
        history = read_csv(paths.TRAIN / variant.name / "history.csv").iloc[1:]
        loss = history["train/loss"].rolling(10, min_periods=1).mean()
        tables.append(pd.DataFrame({"series": variant.name, "step": history["step"], "loss": loss}))
    return pd.concat(tables, ignore_index=True)


def loss_by_length(table: "pd.DataFrame", params: Params) -> "pd.DataFrame":
    """Evaluation loss of every variant: columns series (initialisation, split), length, loss.

    Several seeds are one point, their mean.
    """
    import pandas as pd

    variants = table[table["kind"] == "variant"]
    tables = []
    for split in params.evaluate.splits:
        means = variants.groupby(["initialization", "length"], as_index=False)[
            f"{split}_loss"
        ].mean()
        series = means["initialization"] + ", " + split
        tables.append(
            pd.DataFrame(
                {"series": series, "length": means["length"], "loss": means[f"{split}_loss"]}
            )
        )
    return pd.concat(tables, ignore_index=True)


def as_markdown(table: "pd.DataFrame", params: Params) -> str:
    """The table for a terminal and for Markdown: losses to 3 digits, rates in percent."""
    from tabulate import tabulate

    # A task has the metrics of text or those of labels.
    shown = [m for m in _SHOWN if f"{params.evaluate.splits[0]}_{m}" in table]
    headers = [
        "",
        "length",
        *(_heading(split, m) for split in params.evaluate.splits for m in shown),
    ]
    rows = [
        [
            row["name"] if row["kind"] == "variant" else f"{row['name']} (baseline)",
            row["length"],
            *(_cell(row, split, m) for split in params.evaluate.splits for m in shown),
        ]
        for row in table.to_dict("records")
    ]
    return str(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


_SHOWN = ("loss", "exact_match", "token_f1", "accuracy", "f1")
_TITLES = {"loss": "loss", "exact_match": "exact match", "token_f1": "F1"} | {
    "accuracy": "accuracy",
    "f1": "F1",
}


def _heading(split: str, metric: str) -> str:
    return f"{split} {_TITLES[metric]}"


def _cell(row: dict[Any, Any], split: str, metric: str) -> str:
    value = row[f"{split}_{metric}"]
    return f"{value:.3f}" if metric == "loss" else f"{100 * value:.1f}%"


def _flat(measured: dict[str, Any]) -> dict[str, float]:
    return {
        f"{split}_{metric}": value
        for split, metrics in measured.items()
        if isinstance(metrics, dict)
        for metric, value in metrics.items()
    }
