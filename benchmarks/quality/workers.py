"""Processes that take trials one after another, each with the frozen model loaded once."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from benchmarks.quality.results import Line
from benchmarks.quality.running import begin, is_ready, run
from benchmarks.quality.trials import Trial
from pipeline.errors import PipelineError
from pipeline.training.optimizer import planned_steps

# A process whose card has failed computes nothing any more.
_OF_A_CARD = ("AcceleratorError", "CUDA error")


class Worker:
    """A process of its own, so that what ends one ends no other."""

    def __init__(self, folder: Path, trial: Trial) -> None:
        self._given = folder, trial
        self._begin()

    def is_ready(self) -> "Future[bool]":
        """Done once the model is loaded."""
        return self._pool.submit(is_ready)

    def take(self, trial: Trial) -> "Future[Line]":
        """Done once the trial is."""
        try:
            return self._pool.submit(run, trial)
        except BrokenProcessPool:
            self.renew()
            return self._pool.submit(run, trial)

    def renew(self) -> None:
        """End the process, and start another in its place."""
        self.end()
        self._begin()

    def end(self) -> None:
        """End the process, once it is done."""
        self._pool.shutdown(cancel_futures=True)

    def _begin(self) -> None:
        # A card's state does not survive a fork.
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), begin, self._given)


class Durations:
    """How long a trial takes, as far as others tell that are done."""

    def __init__(self, examples: int) -> None:
        self._examples = examples
        self._steps: dict[str, list[float]] = {}
        self._rest: list[float] = []

    def add(self, trial: Trial, line: Line) -> None:
        """Learn from what a trial took."""
        if "error" in line or not line["steps"]:
            return
        own = self._steps.setdefault(trial.method, [])
        own.append(line["seconds"] / line["steps"])
        self._rest.append(line["total_seconds"] - line["seconds"])

    def of(self, trial: Trial) -> float:
        """Seconds, by the median of the same method's steps; 0 while nothing is known."""
        known = self._steps.get(trial.method) or [s for own in self._steps.values() for s in own]
        if not known:
            return 0.0
        steps = planned_steps(trial.training, trial.train_size or self._examples)
        return steps * median(known) + median(self._rest)


def run_all(
    trials: Sequence[Trial],
    processes: int,
    folder: Path,
    prepare: Callable[[], int],
    ends_at: float,
    write: Callable[[Line], None],
) -> list[Trial]:
    """Run trials in their order, those that are alone first; returns what time did not allow.

    Args:
        folder: of the model.
        prepare: makes what else they read, while the processes load the model; returns the examples
            of the training split.
        ends_at: by `time.monotonic`; none begins that would last longer, by what those like it
            took.
        write: is given each line at once.

    Raises PipelineError when no process can load the model.
    """
    alone = [trial for trial in trials if trial.alone]
    others = [trial for trial in trials if not trial.alone]
    workers = [Worker(folder, trials[0]) for _ in range(min(processes, len(trials)))]
    try:
        durations = Durations(prepare())
        # All of them, so that none of them starts beside a trial that is to be alone.
        ready = _ready(workers)
        left = _run(alone, ready[:1], durations, ends_at, write)
        return left + _run(others, ready, durations, ends_at, write)
    finally:
        for worker in workers:
            worker.end()


def _ready(workers: Sequence[Worker]) -> list[Worker]:
    """Those that could load the model."""
    futures = [worker.is_ready() for worker in workers]
    wait(futures)
    errors = [future.exception() for future in futures]
    ready = [worker for worker, error in zip(workers, errors, strict=True) if error is None]
    if not ready:
        raise PipelineError(f"no process can load the model: {errors[0]}")
    if len(ready) < len(workers):
        print(f"{len(ready)} of {len(workers)} processes could load the model")
    return ready


def _run(
    trials: Iterable[Trial],
    workers: Iterable[Worker],
    durations: Durations,
    ends_at: float,
    write: Callable[[Line], None],
) -> list[Trial]:
    waiting, idle = list(trials), list(workers)
    busy: dict[Future[Line], tuple[Worker, Trial]] = {}
    while waiting or busy:
        while idle and (trial := _next(waiting, durations, ends_at)) is not None:
            waiting.remove(trial)
            worker = idle.pop(0)
            busy[worker.take(trial)] = worker, trial
        if not busy:
            break
        done, _ = wait(busy, return_when=FIRST_COMPLETED)
        for future in done:
            worker, trial = busy.pop(future)
            line = _line(future, trial)
            if any(name in line.get("error", "") for name in (*_OF_A_CARD, "BrokenProcessPool")):
                worker.renew()
            durations.add(trial, line)
            write(line)
            idle.append(worker)
    return waiting


def _next(waiting: Sequence[Trial], durations: Durations, ends_at: float) -> Trial | None:
    left = ends_at - time.monotonic()
    return next((trial for trial in waiting if left > 0 and durations.of(trial) <= left), None)


def _line(future: "Future[Line]", trial: Trial) -> Line:
    try:
        return future.result()
    except BrokenProcessPool as error:
        return {"trial": trial.identity, "error": f"BrokenProcessPool: {error}"}
