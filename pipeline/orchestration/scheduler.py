"""Running a plan: each stage as soon as all before it are done and a worker is free."""

import heapq
import time
from collections import Counter
from collections.abc import Callable

from dvc.exceptions import DvcException
from dvc.stage import PipelineStage

from pipeline.errors import PipelineError
from pipeline.errors.failures import sentence_of
from pipeline.orchestration.grouping import alike
from pipeline.orchestration.lock_file import LockFile
from pipeline.orchestration.outcome import Outcome
from pipeline.orchestration.plan import Plan, command_of
from pipeline.orchestration.pool import Pool
from pipeline.orchestration.repository import Repository, told_by_dvc
from pipeline.orchestration.stopping import Stopping
from pipeline.orchestration.task import Ended, Task

_LOSSES = 3
"""Of workers under the same stage, after which it counts as failed."""

_SECONDS_BETWEEN_WRITES = 3.0
"""Of dvc.lock: what a killed sweep has run in them comes from the run-cache at the next."""

Show = Callable[[Outcome, list[str]], None]
"""Told whenever something changed: what became of stages so far, and those at work."""


class Scheduler:
    """One sweep. `open_pool` is called when the first stage has to run."""

    def __init__(
        self,
        repository: Repository,
        plan: Plan,
        open_pool: Callable[[], Pool],
        stopping: Stopping,
        show: Show,
        together: int = 1,
        same_seed: bool = False,
    ) -> None:
        self._repository, self._plan, self._show = repository, plan, show
        self._open_pool, self._stopping = open_pool, stopping
        self._together, self._same_seed = together, same_seed
        self._places = {name: place for place, name in enumerate(plan.stages)}
        self._missing = {name: set(needed) for name, needed in plan.upstream.items()}
        self._dependents: dict[str, list[str]] = {name: [] for name in plan.stages}
        for name, needed in plan.upstream.items():
            for before in needed:
                self._dependents[before].append(name)
        self._ready = [(self._places[n], n) for n, needed in self._missing.items() if not needed]
        heapq.heapify(self._ready)
        self._running: list[Task] = []
        self._losses: Counter[str] = Counter()
        self._lock_file = LockFile(repository.lock_path, self._places)
        self._written_at = time.monotonic()
        self._pool: Pool | None = None
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Run all that has changed and can run; what is done is in dvc.lock however this ends."""
        try:
            while self._ready or self._running:
                self._start_ready()
                self._show(self.outcome, [s for task in self._running for s in task.stages])
                if self._running:
                    self._take(self._at_work().wait())
                elif self._stopping.signal_number is not None:
                    break
        finally:
            if self._pool is not None:
                self._pool.close()
            with self._repository.held():
                self._write(now=True)
        return self.outcome

    def _at_work(self) -> Pool:
        if self._pool is None:
            self._pool = self._open_pool()
            self._stopping.stop = self._pool.stop
        return self._pool

    def _start_ready(self) -> None:
        """Give work to all workers that wait for it, as far as there is any."""
        while self._pool is None or self._pool.free():
            # Not while a worker starts, which takes seconds.
            with self._repository.held():
                task = self._next_task()
                self._write(now=False)
            if task is None:
                return
            self._submit(task)

    def _next_task(self) -> Task | None:
        while self._ready and self._stopping.signal_number is None:
            first = self._prepared()
            if first is None:
                continue
            group = [first]
            while len(group) < self._together and self._ready:
                other = self._plan.stages[self._ready[0][1]]
                if not alike(first, other, same_seed=self._same_seed):
                    break
                if (more := self._prepared()) is not None:
                    group.append(more)
            commands = tuple(command_of(stage) or () for stage in group)
            return Task(tuple(stage.addressing for stage in group), commands)
        return None

    def _submit(self, task: Task) -> None:
        task.log.unlink(missing_ok=True)
        self._give(task)

    def _give(self, task: Task) -> None:
        """Have a worker run a task, unless an end was asked for while the workers started."""
        pool = self._at_work()
        with self._stopping.submitting():
            if self._stopping.signal_number is None:
                pool.submit(task)
                self._running.append(task)
            else:
                self.outcome.stopped.update(dict.fromkeys(task.stages, "stopped"))

    def _prepared(self) -> PipelineStage | None:
        """The next ready stage, if a worker has to run it; else it is done with."""
        _, name = heapq.heappop(self._ready)
        stage = self._plan.stages[name]
        try:
            if not self._plan.force and not self._repository.is_changed(stage):
                self._done(name, self.outcome.unchanged)
            elif command_of(stage) is None:
                self._repository.run_by_dvc(stage, self._plan.force)
                self._done(name, self.outcome.ran)
            elif self._repository.begin(stage, self._plan.force):
                self._lock_file.record(stage)
                self._done(name, self.outcome.restored)
            else:
                return stage
        except Exception as error:
            self._fail(name, _told(error))
        return None

    def _take(self, ended: Ended) -> None:
        self._running.remove(ended.task)
        task = ended.task
        if ended.error is not None and len(task.stages) > 1:
            task = self._without_written(task)
        if ended.lost and self._stopping.signal_number is None and task.stages:
            self._losses.update(task.stages)
            if max(self._losses[name] for name in task.stages) < _LOSSES:
                with self._repository.held():
                    for name in task.stages:
                        self._repository.remove_outs(self._plan.stages[name])
                self._give(task)
                return
        for name in task.stages:
            if ended.error is None:
                self._finish(name)
            elif self._stopping.signal_number is not None:
                self.outcome.stopped[name] = ended.error
            else:
                again = f", {_LOSSES} times" if ended.lost else ""
                self._fail(name, f"{ended.error}{again}; its output: {ended.task.log}")

    def _without_written(self, task: Task) -> Task:
        """What is left of trainings together when one failed: the others have their outputs."""
        left = []
        for name, command in zip(task.stages, task.commands, strict=True):
            if all(out.exists for out in self._plan.stages[name].outs):
                self._finish(name)
            else:
                left.append((name, command))
        return Task(tuple(name for name, _ in left), tuple(command for _, command in left))

    def _finish(self, name: str) -> None:
        stage = self._plan.stages[name]
        try:
            with self._repository.held():
                self._repository.finish(stage)
        except Exception as error:
            self._fail(name, _told(error))
            return
        self._lock_file.record(stage)
        self._done(name, self.outcome.ran)

    def _done(self, name: str, among: list[str]) -> None:
        among.append(name)
        for dependent in self._dependents[name]:
            self._missing[dependent].discard(name)
            if not self._missing[dependent] and dependent not in self.outcome.skipped:
                heapq.heappush(self._ready, (self._places[dependent], dependent))

    def _fail(self, name: str, sentence: str) -> None:
        self.outcome.failed[name] = sentence
        for dependent in self._plan.dependents(name):
            self.outcome.skipped.setdefault(dependent, name)

    def _write(self, now: bool) -> None:
        if now or time.monotonic() - self._written_at >= _SECONDS_BETWEEN_WRITES:
            self._lock_file.write()
            self._written_at = time.monotonic()


def _told(error: Exception) -> str:
    """A stage's sentence of what stood in the way of DVC, which fails that stage alone."""
    if isinstance(error, DvcException):
        return told_by_dvc(error)
    if isinstance(error, PipelineError):
        return str(error)
    return sentence_of(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"
