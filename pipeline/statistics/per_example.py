"""The statistics of every test example, read from the predictions of variants and baselines."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.errors import PipelineError
from pipeline.metrics.table import METRICS
from pipeline.statistics.intervals import interval
from pipeline.statistics.resampling import Resampling
from pipeline.storage.records import batched, each_of_jsonl

Statistics = dict[tuple[str, str], np.ndarray]
"""For a (split, metric) the statistics of its examples, `[examples, k]`, in the split's order."""

_LINES_AT_ONCE = 1000


def read_statistics(folder: Path, splits: Sequence[str], metrics: Sequence[str]) -> Statistics:
    """The statistics behind a folder's metrics. Raises PipelineError when it lacks some."""
    path = folder / "predictions.jsonl"
    portions: dict[tuple[str, str], list[np.ndarray]] = {}
    for lines in batched(each_of_jsonl(path), _LINES_AT_ONCE):
        for split in splits:
            own = [line for line in lines if line["split"] == split]
            for name in metrics if own else ():
                try:
                    portions.setdefault((split, name), []).append(METRICS[name].matrix(own))
                except KeyError as error:
                    raise PipelineError(f"{path}: lacks {error}; run `dvc repro`") from error
    return {
        (split, name): np.concatenate(portions.get((split, name), [METRICS[name].matrix([])]))
        for split in splits
        for name in metrics
    }


def intervals(seeds: Sequence[Statistics]) -> dict[tuple[str, str], float]:
    """Of a system's trainings the ends of 95% intervals: (split, `<metric>_low`), `_high`."""
    ends = {}
    for split, name in seeds[0]:
        low, high = interval(METRICS[name], [one[split, name] for one in seeds])
        ends[split, f"{name}_low"] = low
        ends[split, f"{name}_high"] = high
    return ends


class Comparer:
    """p values over the columns `<split>_<metric>` of a table, on the same draws for all of it."""

    def __init__(self, resamples: int, seed: int) -> None:
        self._resamples, self._seed = resamples, seed

    def p_values(
        self, systems: Mapping[str, Sequence[Statistics]], reference: Sequence[Statistics]
    ) -> dict[str, dict[str, float]]:
        """By system `<split>_<metric>_p_value` of its difference from `reference`.

        A system, and the reference, is the statistics of each of its seeds. For each split and
        metric p values are corrected for the number of systems.
        """
        found: dict[str, dict[str, float]] = {name: {} for name in systems}
        for split, metric in reference[0]:
            by_name = {
                name: [one[split, metric] for one in seeds] for name, seeds in systems.items()
            }
            of_reference = [one[split, metric] for one in reference]
            draws = self._of(len(of_reference[0]))
            for name, value in draws.p_values(METRICS[metric], by_name, of_reference).items():
                found[name][f"{split}_{metric}_p_value"] = value
        return found

    def _of(self, examples: int) -> Resampling:
        if examples not in self._drawn:
            self._drawn[examples] = Resampling(examples, self._resamples, self._seed)
        return self._drawn[examples]

    @cached_property
    def _drawn(self) -> dict[int, Resampling]:
        return {}
