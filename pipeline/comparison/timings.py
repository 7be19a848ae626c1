"""What differs from run to run, beside the timings themselves: a table and a picture.

They are no outputs of DVC's, which are the same on every run; a restored variant has no timing.
"""

from pathlib import Path

import pandas as pd
from tabulate import tabulate

from pipeline.comparison.choice import setting_of
from pipeline.comparison.plots.by_cost import by_training_seconds
from pipeline.comparison.plots.still import save
from pipeline.comparison.plots.subject import Subject
from pipeline.comparison.tables import judged_by, shown_name
from pipeline.config import Params
from pipeline.metrics.table import METRICS
from pipeline.storage.atomic import atomic_file
from pipeline.storage.records import write_text
from pipeline.workspace.timings import read_timing

TABLE, PICTURE = "timings.md", "quality_by_training_seconds.png"

_FIGURES = {
    "training_seconds": "training (s)",
    "training_tokens_per_second": "training (tokens/s)",
    "evaluation_seconds": "evaluation (s)",
    "decoding_tokens_per_second": "decoding (tokens/s)",
}


def write_timings(
    params: Params, table: pd.DataFrame, seeds: pd.DataFrame, folder: Path
) -> list[Path]:
    """Write `timings.md` and, where trainings were timed, the picture; returns what it wrote."""
    metric = METRICS[params.report.sort_by]
    timings = [read_timing(name) for name in table["name"]]
    shown = [key for key in _FIGURES if any(key in timing for timing in timings)]
    rows = [
        [
            shown_name(row),
            metric.shown(row[params.report.judged_by]),
            *(f"{timing[figure]:.1f}" if figure in timing else "" for figure in shown),
        ]
        for row, timing in zip(table.to_dict("records"), timings, strict=True)
    ]
    headers = ["", judged_by(params), *(_FIGURES[figure] for figure in shown)]
    text = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    note = "Wall-clock times of this machine; empty for what was restored and not run here."
    write_text(folder / TABLE, f"{text}\n\n{note}\n")
    written = [folder / TABLE]
    timed = table.assign(training_seconds=[t.get("training_seconds", 0.0) for t in timings])
    if (timed["training_seconds"] > 0).any():
        of_setting = timed.groupby(timed["name"].map(setting_of))["training_seconds"].mean()
        with_seconds = seeds.assign(training_seconds=seeds["name"].map(of_setting))
        with atomic_file(folder / PICTURE) as aside:
            subject = Subject(timed, with_seconds, pd.DataFrame(), params.report.split, metric)
            save(by_training_seconds(subject), aside, params.report.dpi)
        written.append(folder / PICTURE)
    return written
