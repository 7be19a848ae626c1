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

    Keys in use: `training_seconds`, `training_tokens_per_second`, `evaluation_seconds`,
    `decoding_tokens_per_second`, `first_token_ms`, and the last two with `merged_` before them, of
    matrices that were merged into the weights.
    """
    write_json(paths.TIMINGS / f"{name}.json", {**read_timing(name), **figures})


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

    def record(self, name: str, seconds: float | None = None) -> None:
        """Write what this training took: `seconds`, by default the time until now."""
        if seconds is None:
            seconds = time.perf_counter() - self._began
        figures = {"training_seconds": seconds}
        if self._speeds:
            figures["training_tokens_per_second"] = median(self._speeds)
        record_timing(name, **figures)
