"""The tables that `dvc plots show` draws, each by the template of its name in .dvc/plots."""

from pathlib import Path

import pandas as pd

from pipeline.comparison.tables import shown_name
from pipeline.config import Params
from pipeline.metrics.table import METRICS
from pipeline.storage.records import read_csv, write_csv
from pipeline.sweep.grid import sweep
from pipeline.workspace import paths

TRAINING, VALIDATION = "training (mean of 10 steps)", "validation"


def write_drawn(table: pd.DataFrame, params: Params, folder: Path) -> None:
    """Write `loss_curves.csv`, `loss_by_length.csv` and `scores.csv` of a summary table."""
    write_csv(folder / "loss_curves.csv", both_losses(params))
    write_csv(folder / "loss_by_length.csv", loss_by_length(table, params))
    write_csv(folder / "scores.csv", scores_of_all(table, params))


def both_losses(params: Params) -> pd.DataFrame:
    """Training and validation loss over optimizer steps, several seeds as their mean.

    Columns split (`TRAINING` or `VALIDATION`), length, initialization, step, loss. Training is a
    mean of 10 steps, since single batches are too noisy to tell variants apart; what was trained on
    fewer examples, or at a further rate, is left out.
    """
    tables = []
    for variant in sweep(params):
        if not variant.is_plain:
            continue
        history = read_csv(paths.TRAIN / variant.name / "history.csv")
        place = {"length": variant.length, "initialization": variant.initialization}
        # Nothing was trained on before the first step.
        steps = history.iloc[1:]
        trained = steps["train/loss"].rolling(10, min_periods=1).mean()
        tables += [
            pd.DataFrame({"split": TRAINING, **place, "step": steps["step"], "loss": trained}),
            pd.DataFrame(
                {"split": VALIDATION, **place, "step": history["step"]}
                | {"loss": history["validation/loss"]}
            ).dropna(),
        ]
    keys = ["split", "length", "initialization", "step"]
    curves = pd.concat(tables, ignore_index=True)
    return curves.groupby(keys, sort=False)["loss"].mean().reset_index()


def loss_by_length(table: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Evaluation loss of the variants: columns split, initialization, length, loss.

    Several seeds are one point, their mean; variants of `sweep.train_sizes` and
    `sweep.learning_rates` are left out.
    """
    # In the order of the sweep, so that an initialisation has one colour in all that is drawn.
    plain = [variant.name for variant in sweep(params) if variant.is_plain]
    variants = table.set_index("name").loc[plain]
    tables = []
    for split in params.evaluate.splits:
        keys, loss = ["initialization", "length"], f"{split}_loss"
        means = variants.groupby(keys, sort=False)[loss].mean().reset_index()
        means.insert(0, "split", split)
        tables.append(means.rename(columns={loss: "loss"}))
    return pd.concat(tables, ignore_index=True)


def scores_of_all(table: pd.DataFrame, params: Params) -> pd.DataFrame:
    """The metric that is sorted by, of every run: columns measured, name, score; best first.

    `measured` says the split and the metric, with its unit.
    """
    metric = METRICS[params.report.sort_by]
    splits = [params.report.split, *params.evaluate.splits, "validation"]
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "measured": f"{split}: {metric.axis}",
                    "name": [shown_name(row) for row in table.to_dict("records")],
                    "score": table[f"{split}_{metric.name}"],
                }
            )
            for split in dict.fromkeys(splits)
        ],
        ignore_index=True,
    )
