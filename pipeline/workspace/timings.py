"""How long things took: files beside the stages' outputs, since no two runs take the same time.

DVC's outputs hold only what is the same on every run, so durations and speeds lie apart, in
`data/timings/<variant or baseline>.json`, which no stage depends on. What DVC restored from its
cache has none.
"""

import time
from collections.abc import Callable, Mapping
from statistics import median

from pipeline.errors import PipelineError
from pipeline.storage.records import read_json, write_json
from pipeline.workspace import paths

LogStep = Callable[[int, Mapping[str, float]], None]


def record_timing(name: str, **figures: float) -> None:
    """Add figures to those of a variant or baseline; one of the same key is replaced.

    Keys in use: `training_seconds`, of which `start_seconds` made the start, where it is chosen or
    computed when training begins, and `search_seconds` were the search of the learning rate,
    `training_tokens_per_second`, `evaluation_seconds`, `decoding_tokens_per_second`,
    `first_token_ms`, and the last two with `merged_` before them, of matrices that were merged into
    the weights.
    """
    _write(name, {**read_timing(name), **figures})


def _write(name: str, figures: Mapping[str, float]) -> None:
    write_json(paths.TIMINGS / f"{name}.json", figures)


def read_timing(name: str) -> dict[str, float]:
    """What was measured of a variant or baseline on this machine; empty when nothing was."""
    path = paths.TIMINGS / f"{name}.json"
    if not path.exists():
        return {}
    try:
        return {key: float(value) for key, value in read_json(path).items()}
    except (PipelineError, TypeError, ValueError):
        # Damaged: nothing depends on it, and the next measurement replaces it.
        return {}


class TrainingClock:
    """Times one training through the metrics that it logs at every step.

    `tokens_per_second` is the median over the steps, so that a slow first one does not count.
    """

    def __init__(self, log_step: LogStep) -> None:
        self._log_step = log_step
        self._speeds: list[float] = []
        self._began = time.perf_counter()

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note the step's speed, and pass it on."""
        if "train/tokens_per_second" in metrics:
            self._speeds.append(metrics["train/tokens_per_second"])
        self._log_step(step, metrics)

    def record(
        self,
        name: str,
        seconds: float | None = None,
        search_seconds: float | None = None,
        seconds_before: float = 0.0,
        start_seconds: float | None = None,
    ) -> None:
        """Write what this training took: `seconds`, by default the time until now.

        Of it `search_seconds` were the search of the rate. To be added are `seconds_before`, since
        an earlier process took them, and `start_seconds`, which made the start before this clock.
        """
        if seconds is None:
            seconds = time.perf_counter() - self._began
        figures = {"training_seconds": seconds + seconds_before + (start_seconds or 0.0)}
        if search_seconds is not None:
            figures["search_seconds"] = search_seconds
        if start_seconds is not None:
            figures["start_seconds"] = start_seconds
        if self._speeds:
            figures["training_tokens_per_second"] = median(self._speeds)
        # A training without a search, or a start of its own, leaves nothing of one before it.
        parts = ("search_seconds", "start_seconds")
        others = {key: value for key, value in read_timing(name).items() if key not in parts}
        _write(name, {**others, **figures})
