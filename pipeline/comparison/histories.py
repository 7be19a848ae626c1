"""Validation losses on the way, of every training on the whole training split."""

import pandas as pd

from pipeline.comparison.choice import setting_of
from pipeline.config import Params
from pipeline.storage.records import read_csv
from pipeline.sweep.grid import all_rows
from pipeline.workspace import paths


def validations(params: Params) -> pd.DataFrame:
    """What each training of a variant or a baseline came to on its way.

    Columns step (0 is the start), loss (validation, nats per target token), setting, run, and steps
    (all that the training took).
    """
    tables = []
    for row in all_rows(params):
        if row.seed is None or row.train_size is not None:
            continue
        history = read_csv(paths.TRAIN / row.name / "history.csv")
        steps = int(history["step"].iloc[-1])
        measured = history.dropna(subset=["validation/loss"])
        told = pd.DataFrame({"step": measured["step"], "loss": measured["validation/loss"]})
        tables.append(told.assign(setting=setting_of(row.name), run=row.name, steps=steps))
    return pd.concat(tables, ignore_index=True)
