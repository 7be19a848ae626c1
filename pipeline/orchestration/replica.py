"""The project on a machine that does not see the project's own folder: its inputs and its outputs.

The folder stays there from sweep to sweep, so that checkpoints of a killed training, and the model,
are found again. Workers of one machine share it.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo
from filelock import FileLock
from ruamel.yaml import YAML

from pipeline.errors import PipelineError
from pipeline.orchestration.shipping import Left, LockEntry, entry_of, push_outputs
from pipeline.orchestration.task import Task
from pipeline.storage.atomic import atomic_file
from pipeline.storage.records import write_json
from pipeline.workspace import paths
from pipeline.workspace.timings import read_timing

_LONGEST_LOG = 200_000  # characters, of the end


class Replica:
    """A DVC repository of its own in `folder`, which holds the project's code and params already.

    `remote` is what `Shipping.remote` gives, and `label` the name that the project's runs have in
    MLflow. Raises PipelineError where the remote is a folder that this machine does not see.
    """

    def __init__(self, folder: Path, remote: Mapping[str, Any], label: str) -> None:
        self._folder = folder
        self._began = time.time()
        self._made: dict[str, LockEntry] = {}
        url = Path(remote["settings"]["url"])
        if url.is_absolute() and not url.is_dir():
            raise PipelineError(
                f"the DVC remote {url} is a folder that this machine does not have: share it, or "
                "give the project a remote that all machines reach (`dvc remote add --default`)"
            )
        with self._locked():
            new = not (folder / ".dvc").is_dir()
            repo = Repo.init(str(folder), no_scm=True) if new else Repo(str(folder))
            with repo.config.edit("repo") as config:
                config["core"]["remote"] = remote["name"]
                config["core"]["analytics"] = False
                config["remote"] = {remote["name"]: dict(remote["settings"])}
            # As if the project had moved here: its runs in a shared MLflow are its own.
            (folder / paths.DATA).mkdir(exist_ok=True)
            write_json(folder / paths.WORKSPACE, {"label": label, "home": str(folder)})

    def receive(self, inputs: Mapping[str, LockEntry], task: Task) -> None:
        """Bring what other stages made from the remote, and clear the place of this task's.

        Raises PipelineError when the remote does not give it.
        """
        self._began, self._made = time.time(), {}
        task.log.unlink(missing_ok=True)
        with self._locked():
            lock = {"schema": "2.0", "stages": dict(inputs)}
            # Another worker here may be reading it.
            with atomic_file(self._folder / "dvc.lock") as aside:
                YAML(typ="safe").dump(lock, aside)
            repo = Repo(str(self._folder))
            try:
                with lock_repo(repo):
                    if inputs:
                        repo.pull(targets=list(inputs), force=True)
                    for name in task.stages:
                        repo.stage.load_one(name=name).remove_outs()
            except (DvcException, OSError) as error:
                raise PipelineError(
                    f"the DVC remote did not give what {task.stages[0]} needs: {error}"
                ) from error

    def give(self, task: Task) -> None:
        """Take the outputs of a finished task into the cache here, and send them to the remote.

        Its runs are noted in the run-cache here too. Raises PipelineError when the remote does not
        take them.
        """
        with self._locked():
            repo = Repo(str(self._folder))
            for name in task.stages:
                stage = repo.stage.load_one(name=name)
                try:
                    with lock_repo(repo):
                        stage.save()
                        stage.commit()
                        repo.stage_cache.save(stage)
                    push_outputs(repo, stage)
                except (DvcException, OSError) as error:
                    raise PipelineError(f"the DVC remote did not take {name}: {error}") from error
                self._made[name] = entry_of(stage)

    def left(self, task: Task) -> Left:
        """What the task at work, or the last one, left here for the project."""
        log = task.log
        timings = paths.TIMINGS.glob("*.json") if paths.TIMINGS.is_dir() else ()
        new = [path.stem for path in timings if path.stat().st_mtime >= self._began]
        return {
            "made": self._made,
            "log": log.read_text(errors="replace")[-_LONGEST_LOG:] if log.exists() else "",
            "timings": {name: read_timing(name) for name in new},
        }

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with FileLock(self._folder / ".replica.lock"):
            yield
