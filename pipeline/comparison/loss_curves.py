"""Training loss over optimizer steps, from the histories of the sweep."""

import pandas as pd

from pipeline.config import Params
from pipeline.storage.records import read_csv
from pipeline.sweep.grid import sweep
from pipeline.workspace import paths


def loss_curves(params: Params) -> pd.DataFrame:
    """Training loss of each variant on the whole training split, at `train.learning_rate`.

    Columns initialization, length, seed, step, loss (mean of 10 steps: single batches are too
    noisy to tell variants apart).
    """
    tables = []
    for variant in sweep(params):
        if not variant.is_plain:
            continue
        history = read_csv(paths.TRAIN / variant.name / "history.csv").iloc[1:]
        loss = history["train/loss"].rolling(10, min_periods=1).mean()
        place = {"initialization": variant.initialization, "length": variant.length}
        tables.append(
            pd.DataFrame({**place, "seed": variant.seed, "step": history["step"], "loss": loss})
        )
    return pd.concat(tables, ignore_index=True)
