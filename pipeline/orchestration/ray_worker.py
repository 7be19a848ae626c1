"""The actor that stands for one worker on its machine.

It is thin: it finds or makes the project's folder, and holds one process that runs the stages. That
process has a main thread, to which a signal says that a training shall end after its step; an
actor's call has none. Ray sends this class by value to machines that have no code of the project
yet, so that it imports nothing of the project before `open`.
"""

import hashlib
import io
import os
import shutil
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = "PREFIX_TUNING_NODE_FOLDER"
"""Where set on a machine: its workers work below this folder, whatever they see of the project."""


class RayWorker:
    """One worker; `environment` is what the command's own environment says to stages."""

    def __init__(self, project: str, token: str, environment: Mapping[str, str]) -> None:
        # Ray's is the share of cores; last bits go by it, and a stage that runs alone has its own.
        os.environ.pop("OMP_NUM_THREADS", None)
        os.environ.update(environment)
        self._project = Path(project)
        self._sees = FOLDER not in os.environ and (self._project / token).is_file()
        self._replica: Any = None
        self._pool: Any = None

    def sees_project(self) -> bool:
        """Whether the folder of the project is here, and the same one as the command's."""
        return self._sees

    def open(self, kept: Mapping[str, Any] | None = None) -> str | None:
        """Start the process that runs stages; returns one sentence where it cannot.

        In the project's own folder; or, with what `Shipping.project` gives, in a copy of the code
        that stays on this machine.
        """
        folder = self._project
        if kept is not None:
            folder = _home() / kept["name"]
            _unpack(folder, kept["paths"], kept["archive"])
            # Runs go to a store that others reach, or stay in this folder.
            if not kept["tracking"]:
                os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        # The project's code, which may have arrived just now.
        from pipeline.errors import PipelineError
        from pipeline.orchestration.local_pool import LocalPool

        try:
            if kept is not None:
                from pipeline.orchestration.replica import Replica

                self._replica = Replica(folder, kept["remote"], kept["label"])
            self._pool = LocalPool(1)
        except PipelineError as error:
            return str(error)
        return None

    def run(
        self,
        stages: Sequence[str],
        commands: Sequence[Sequence[str]],
        inputs: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Run one task; returns its `error`, whether its process was `lost`, and what it `left`.

        `inputs` are the entries of `dvc.lock` of what other stages made. A copy of the project
        fetches that first, sends its outputs afterwards, and tells what it left besides.
        """
        from pipeline.errors import PipelineError
        from pipeline.orchestration.task import Task

        task = Task(tuple(stages), tuple(map(tuple, commands)))
        error, lost = None, False
        try:
            if self._replica is not None:
                self._replica.receive(inputs or {}, task)
            self._pool.submit(task)
            ended = self._pool.wait()
            error, lost = ended.error, ended.lost
            if self._replica is not None and error is None:
                self._replica.give(task)
        except PipelineError as refused:
            error = str(refused)
        left = {} if self._replica is None else self._replica.left(task)
        return {"error": error, "lost": lost, "left": left}

    def stop(self) -> None:
        """Ask the task at work to end soon, a training after the step at hand."""
        if self._pool is not None:
            self._pool.stop()


def _home() -> Path:
    """The folder of this machine's copies of projects."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(FOLDER) or Path(cache, "prefix-tuning"))


def _unpack(folder: Path, paths: Sequence[str], archive: bytes) -> None:
    """Put the archive's files in place of those at its paths, unless they are the same."""
    from filelock import FileLock

    digest = hashlib.sha256(archive).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / ".unpacked"
    with FileLock(folder / ".unpacking.lock"):
        if kept.exists() and kept.read_text() == digest:
            return
        kept.unlink(missing_ok=True)
        for path in paths:
            if (folder / path).is_dir():
                shutil.rmtree(folder / path)
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        kept.write_text(digest)
