"""Workers on the machines of a Ray cluster."""

import os
import sys
import threading
import uuid
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pipeline.errors import PipelineError, first_line
from pipeline.orchestration import ray_worker
from pipeline.orchestration.local_pool import BESIDE_OTHERS, LocalPool
from pipeline.orchestration.ray_cluster import places_in, share_of
from pipeline.orchestration.shipping import AT_HOME, Shipping
from pipeline.orchestration.task import Ended, Task

# What the command's environment says to stages, wherever they run.
_PASSED_ON = ("MLFLOW_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "OMP_", "MKL_", "TORCH")
_ALSO = ("PYTHONHASHSEED", "CUBLAS_WORKSPACE_CONFIG", "DVC_NO_ANALYTICS", "NO_COLOR", "CI")

_START_SECONDS = 300.0  # for the first workers, of which each imports torch
_WORD_SECONDS = 60.0  # without any news before a word is said
_STARTS = 3  # of one worker after another, with nothing in between, before giving up


class _Worker(NamedTuple):
    actor: Any
    is_elsewhere: bool
    """Whether it works in a copy of the project on its machine."""


class RayPool:
    """So many workers, each an actor with its share of CPUs and GPUs; see `Pool`.

    An actor that dies, or whose machine does, loses its task alone, and another takes its place on
    any machine. Raises PipelineError where no worker can start, and where a machine sees neither
    the project's folder nor a DVC remote.
    """

    def __init__(self, ray: ModuleType, workers: int, gpus_per_worker: float | None = None) -> None:
        self._ray = ray
        self._root = Path.cwd()
        nodes = ray.nodes()
        self._share = share_of(nodes, workers, gpus_per_worker)
        # A machine of another network may have a folder of the same name.
        self._token = Path(".dvc", "tmp", f"workers-{uuid.uuid4().hex}")
        (self._root / self._token).parent.mkdir(exist_ok=True)
        (self._root / self._token).touch()
        ray.cloudpickle.register_pickle_by_value(ray_worker)
        # Two calls at once: a task, and the request to stop it.
        self._class = ray.remote(max_concurrency=2, **self._share)(ray_worker.RayWorker)
        self._shipping: Shipping | None = None
        self._kept: Any = None
        self._home: LocalPool | None = None
        self._at_home = 0
        self._failed_starts = 0
        self._stopping = False
        self._is_open = False
        self._starting: dict[Any, _Worker] = {}
        self._idle: deque[_Worker] = deque()
        self._running: dict[Any, tuple[_Worker, Task]] = {}
        self._waiting: deque[Task] = deque()
        self._refused: deque[Ended] = deque()
        try:
            for _ in range(workers):
                self._start()
            self._await_start(min(workers, places_in(nodes, self._share)))
            self._is_open = True
        except BaseException:
            self.close()
            raise

    @property
    def has_gpus(self) -> bool:
        """Whether each worker has a GPU, or a share of one."""
        return self._share["num_gpus"] > 0

    def submit(self, task: Task) -> None:
        """Give a task to a worker that waits for one; `free` says whether there is any."""
        if self._shipping is not None and self._shipping.stays(task):
            if self._home is None:
                self._home = LocalPool(len(AT_HOME))
            self._home.submit(task)
            self._at_home += 1
            return
        self._waiting.append(task)
        self._assign()

    def wait(self) -> Ended:
        """Block until a task that was submitted has ended, and return it."""
        while True:
            if self._stopping and self._waiting:
                return Ended(self._waiting.popleft(), error="stopped")
            if self._home is not None and self._at_home:
                # What all others need, or all of it at the end: nothing is lost by waiting here.
                self._at_home -= 1
                return self._noted(self._home.wait())
            self._assign()
            if self._refused:
                return self._refused.popleft()
            done = self._next(_WORD_SECONDS)
            if done is None:
                if not self._running:
                    print(
                        "waiting: no machine of the cluster has room for a worker", file=sys.stderr
                    )
            elif done in self._starting:
                self._started(done)
            else:
                return self._ended(done)

    def free(self) -> int:
        """The number of workers that wait for work, those that are about to be there included."""
        return max(0, len(self._idle) + len(self._starting) - len(self._waiting))

    def stop(self) -> None:
        """Ask those at work to end soon, a training after its step; `wait` tells of each."""
        self._stopping = True
        if self._home is not None:
            self._home.stop()
        # Of its own: Ray may be in the midst of a call when a signal's handler runs.
        threading.Thread(target=self._ask_to_stop, daemon=True).start()

    def close(self) -> None:
        """End all workers, those at work too."""
        at_work = [worker for worker, _ in self._running.values()]
        for worker in (*at_work, *self._idle, *self._starting.values()):
            self._ray.kill(worker.actor)
        if self._home is not None:
            self._home.close()
        (self._root / self._token).unlink(missing_ok=True)

    def _ask_to_stop(self) -> None:
        for worker, _ in list(self._running.values()):
            worker.actor.stop.remote()

    def _start(self) -> None:
        environment = _environment() if self.has_gpus else {**BESIDE_OTHERS, **_environment()}
        actor = self._class.remote(str(self._root), str(self._token), environment)
        self._starting[actor.sees_project.remote()] = _Worker(actor, False)

    def _await_start(self, expected: int) -> None:
        """Wait for as many as have room now; those that others' work keeps out come later."""
        while self._starting and len(self._idle) < expected:
            done = self._next(_START_SECONDS)
            if done is None:
                break
            self._started(done)
        if not self._idle:
            raise PipelineError(
                f"no worker of the Ray cluster was ready within {_START_SECONDS:.0f} seconds; "
                "`ray status` tells what the cluster is busy with"
            )

    def _next(self, seconds: float) -> Any:
        """The next call that has come to its end, or None."""
        done, _ = self._ray.wait([*self._running, *self._starting], timeout=seconds)
        return done[0] if done else None

    def _started(self, call: Any) -> None:
        """Go on with a worker's start: does it see the project, and has it opened it."""
        worker = self._starting.pop(call)
        try:
            answer = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            self._ray.kill(worker.actor)
            self._failed_starts += 1
            if self._failed_starts >= _STARTS:
                raise PipelineError(
                    f"a worker of the Ray cluster does not start ({first_line(error)}); is this "
                    "project's environment installed on all machines?"
                ) from error
            self._start()
            return
        if answer is True:
            self._starting[worker.actor.open.remote()] = worker
        elif answer is False:
            opening = worker.actor.open.remote(self._project())
            self._starting[opening] = _Worker(worker.actor, True)
        elif answer is None:
            self._failed_starts = 0
            self._idle.append(worker)
        elif self._is_open and (self._idle or self._running or self._starting):
            # Of a machine that joined meanwhile: the others can do without it.
            print(f"warning: one worker less: {answer}", file=sys.stderr)
            self._ray.kill(worker.actor)
        else:
            raise PipelineError(answer)

    def _project(self) -> Any:
        """The project for machines that do not see it, in Ray's store of objects."""
        if self._shipping is None:
            self._shipping = Shipping(self._root)
            self._kept = self._ray.put(self._shipping.project())
        return self._kept

    def _assign(self) -> None:
        while self._waiting and self._idle and not self._at_home and not self._stopping:
            worker, task = self._idle.popleft(), self._waiting.popleft()
            inputs: Mapping[str, Any] | None = None
            try:
                if worker.is_elsewhere and self._shipping is not None:
                    inputs = self._shipping.send_inputs(task)
            except PipelineError as error:
                self._idle.append(worker)
                self._refused.append(Ended(task, error=str(error)))
                continue
            call = worker.actor.run.remote(task.stages, task.commands, inputs)
            self._running[call] = (worker, task)

    def _ended(self, call: Any) -> Ended:
        worker, task = self._running.pop(call)
        try:
            result = self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            self._idle.append(worker)
            return Ended(task, error=_told(error))
        except self._ray.exceptions.RayError as error:
            self._ray.kill(worker.actor)
            self._start()
            return Ended(task, error=f"its worker was lost ({_told(error)})", lost=True)
        self._idle.append(worker)
        try:
            if self._shipping is not None and worker.is_elsewhere:
                self._shipping.bring_home(task, result["left"])
        except PipelineError as error:
            return Ended(task, error=str(error))
        return self._noted(Ended(task, error=result["error"], lost=result["lost"]))

    def _noted(self, ended: Ended) -> Ended:
        if ended.error is None and self._shipping is not None:
            self._shipping.note(ended.task)
        return ended


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_PASSED_ON) or name in _ALSO
    }


def _told(error: BaseException) -> str:
    """What happened on the other machine: Ray's own first line says where alone."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {first_line(cause)}"
