"""Workers that are processes of this machine."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from pipeline.errors import PipelineError
from pipeline.orchestration.task import LOGS, Ended, Task
from pipeline.orchestration.worker import LIBRARIES
from pipeline.orchestration.worker_process import serve

_SECONDS_TO_CLOSE = 10.0

_QUIET = {
    # Read when libraries are imported: what they draw would end up in logs.
    **dict.fromkeys(("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"), "1"),
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

BESIDE_OTHERS = {"OMP_WAIT_POLICY": "passive"}
"""How several workers share cores: threads that wait for others of their process by turning in
circles, as OpenMP's do, keep the cores from those that have work."""


class _Worker:
    """A process, the end of its pipe, and what it works at."""

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self.process, self.connection = process, connection
        self.task: Task | None = None


class LocalPool:
    """`count` processes, of which worker i sees the i-th of `gpus` in turn (none: all there is).

    Each of `gpus` is what `CUDA_VISIBLE_DEVICES` holds: one GPU, or several with commas. `room`
    says how many of them may work at once, where that is not all.

    A worker that dies is replaced when it is needed; its task is told of as lost.
    """

    def __init__(
        self, count: int, gpus: Sequence[str] = (), room: Callable[[], int] | None = None
    ) -> None:
        # A fork of a process that has imported everything starts in milliseconds; nothing may
        # have touched a GPU before it, nor Apple's frameworks.
        forks = sys.platform == "linux" and not gpus
        self._context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
        if forks:
            self._context.set_forkserver_preload(list(LIBRARIES))
        self._gpus, self._room = gpus, room
        self._shared = BESIDE_OTHERS if count > 1 and not gpus else {}
        self._workers: list[_Worker | None] = [None] * count
        for place in range(count):
            self._workers[place] = self._started(place)

    def submit(self, task: Task) -> None:
        """Give a task to a worker that waits for one."""
        for place, worker in enumerate(self._workers):
            # Of one that died at work, too, `wait` has yet to tell.
            if worker is not None and worker.task is not None:
                continue
            if worker is None or not worker.process.is_alive():
                worker = self._workers[place] = self._started(place)
            worker.task = task
            # One that dies at this moment is told of as lost.
            with contextlib.suppress(OSError):
                worker.connection.send(task)
            return
        raise RuntimeError("no worker waits for a task")

    def wait(self) -> Ended:
        """Block until a task has ended."""
        at_work = {w.connection: (i, w) for i, w in enumerate(self._workers) if w and w.task}
        connection = wait(list(at_work))[0]
        place, worker = at_work[connection]  # type: ignore[index]
        task, worker.task = worker.task, None
        assert task is not None
        try:
            return Ended(task, error=worker.connection.recv())
        except (EOFError, OSError):
            worker.process.join(_SECONDS_TO_CLOSE)
            code = worker.process.exitcode
            self._workers[place] = None
            return Ended(task, error=_death(code), lost=True)

    def free(self) -> int:
        """The number of workers that wait for work, and have room for it."""
        at_work = sum(worker is not None and worker.task is not None for worker in self._workers)
        most = len(self._workers) if self._room is None else self._room()
        return max(0, most - at_work)

    def stop(self) -> None:
        """Ask those at work to end soon."""
        for worker in self._workers:
            if worker is not None and worker.task is not None and worker.process.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.process.pid, signal.SIGTERM)

    def close(self) -> None:
        """End all workers, those at work at once."""
        for worker in filter(None, self._workers):
            worker.connection.close()
            if worker.task is not None:
                worker.process.kill()
        for worker in filter(None, self._workers):
            worker.process.join(_SECONDS_TO_CLOSE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _started(self, place: int) -> _Worker:
        own, its = self._context.Pipe()
        environment = {}
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
        process = self._context.Process(
            target=serve, args=(its, environment), name=f"sweep-{place}"
        )
        try:
            with _started_with(self._shared):
                process.start()
        except EOFError as error:
            raise PipelineError(
                f"no worker could be started; {LOGS / 'workers.log'} says why"
            ) from error
        its.close()
        return _Worker(process, own)


@contextlib.contextmanager
def _started_with(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes that start within it have these variables, unless they are set, and draw no bars.

    Whatever they say while they start and import goes to a log.
    """
    environment = dict(os.environ)
    os.environ.update({**variables, **environment, **_QUIET})
    LOGS.mkdir(parents=True, exist_ok=True)
    log = os.open(LOGS / "workers.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(log, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        for descriptor in (kept, log):
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(environment)


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        why = " (by a person, or by the system where memory ended)" if name == "SIGKILL" else ""
        return f"its worker was killed by {name}{why}"
    return f"its worker ended with exit code {code}"
