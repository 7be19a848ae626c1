"""The statistics of every test example, read from the predictions of variants and baselines."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.errors import PipelineError
from pipeline.metrics.table import METRICS
from pipeline.statistics.resampling import Resampling
from pipeline.storage.records import read_jsonl

Statistics = dict[tuple[str, str], np.ndarray]
"""For a (split, metric) the statistics of its examples, `[examples, k]`, in the split's order."""


def read_statistics(folder: Path, splits: Sequence[str], metrics: Sequence[str]) -> Statistics:
    """The statistics behind a folder's metrics. Raises PipelineError when it lacks some."""
    rows = read_jsonl(folder / "predictions.jsonl")
    statistics: Statistics = {}
    for split in splits:
        lines = [row for row in rows if row["split"] == split]
        for name in metrics:
            try:
                statistics[split, name] = METRICS[name].matrix(lines)
            except KeyError as error:
                raise PipelineError(
                    f"{folder}/predictions.jsonl: lacks {error}; run `dvc repro`"
                ) from error
    return statistics


def averaged(parts: Iterable[Statistics]) -> Statistics:
    """The mean over seeds, example by example: one system that stands for all of them."""
    listed = list(parts)
    return {key: np.mean([part[key] for part in listed], axis=0) for key in listed[0]}


class Comparer:
    """Intervals and paired p values over the columns `<split>_<metric>` of a table."""

    def __init__(self, resamples: int, seed: int) -> None:
        self._resamples, self._seed = resamples, seed

    def intervals(self, statistics: Statistics) -> dict[tuple[str, str], float]:
        """For each split and metric the ends of its 95% interval: (split, `<metric>_low`), ..."""
        ends = {}
        for (split, name), matrix in statistics.items():
            low, high = self._of(len(matrix)).interval(METRICS[name], matrix)
            ends[split, f"{name}_low"] = low
            ends[split, f"{name}_high"] = high
        return ends

    def p_values(self, one: Statistics, other: Statistics) -> dict[str, float]:
        """`<split>_<metric>_p_value` of the difference between two systems."""
        return {
            f"{split}_{name}_p_value": self._of(len(matrix)).p_value(
                METRICS[name], matrix, other[split, name]
            )
            for (split, name), matrix in one.items()
        }

    def _of(self, examples: int) -> Resampling:
        if examples not in self._drawn:
            self._drawn[examples] = Resampling(examples, self._resamples, self._seed)
        return self._drawn[examples]

    @cached_property
    def _drawn(self) -> dict[int, Resampling]:
        return {}
