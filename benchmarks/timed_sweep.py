"""`python -m benchmarks.timed_sweep 2`: a sweep by two workers, and the seconds of each stage.

It runs the project of the working folder, as `python -m pipeline sweep` does, and prints one JSON
object: the stages with the seconds from when a worker got each to when it was done.
"""

import json
import sys
import time

from pipeline.orchestration.local_pool import LocalPool
from pipeline.orchestration.sweep import run_sweep
from pipeline.orchestration.task import Ended, Task


class _TimedPool(LocalPool):
    """Notes when tasks come and go."""

    def __init__(self, count: int, seconds: dict[str, float]) -> None:
        super().__init__(count)
        self._seconds = seconds
        self._began: dict[Task, float] = {}

    def submit(self, task: Task) -> None:
        self._began[task] = time.perf_counter()
        super().submit(task)

    def wait(self) -> Ended:
        ended = super().wait()
        self._seconds[ended.task.stages[0]] = time.perf_counter() - self._began[ended.task]
        return ended


def main(workers: int) -> None:
    """Run all that has changed, and print the seconds."""
    seconds: dict[str, float] = {}
    run_sweep((), lambda: _TimedPool(workers, seconds), workers)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(int(sys.argv[1]))
