"""What a machine without the project's folder needs of it, and the way back of what it made.

Files that no stage makes (code, params, texts) travel as archives. What stages make travels through
the project's default DVC remote, by content: each object goes there once, whoever needs it.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from dvc.config import NoRemoteError, RemoteConfigError
from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage import PipelineStage
from dvc.stage.loader import StageLoader
from dvc.stage.serialize import to_single_stage_lockfile

from pipeline.errors import PipelineError
from pipeline.orchestration.task import Task
from pipeline.workspace import location
from pipeline.workspace.timings import record_timing

LockEntry = Mapping[str, Any]
"""What dvc.lock says of one stage."""

_CODE = ("pipeline", "dvc.yaml", "params.yaml")
# They read what lies outside of the project (a hub's cache, a person's files), or complete MLflow.
AT_HOME = ("fetch_model", "fetch_data", "report")
# What every stage's check of params.yaml asks after.
_FETCHES = AT_HOME[:2]
# Stores that more than one machine reaches.
_SHARED_STORES = ("http", "postgresql", "mysql", "mssql", "databricks")


class Left(TypedDict):
    """What a task left on another machine."""

    made: dict[str, LockEntry]
    """Of each stage; the remote has its outputs."""
    log: str
    timings: dict[str, dict[str, float]]


class Kept(TypedDict):
    """What a machine keeps of the project, besides what stages make."""

    name: str
    """Of its folder there: the same for every sweep of this project."""
    paths: list[str]
    archive: bytes
    remote: dict[str, Any]
    label: str
    """Of the project's runs in MLflow."""
    tracking: bool
    """Whether MLFLOW_TRACKING_URI names a store that other machines reach."""


class Shipping:
    """The stages of one project, and which of their outputs the remote has.

    Raises PipelineError where the project has no default remote that keeps objects by content.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._repo = Repo(str(root))
        try:
            self._repo.cloud.get_remote_odb()
        except (NoRemoteError, RemoteConfigError) as error:
            raise PipelineError(
                f"a worker does not see {root}, and this project has no DVC remote to send outputs "
                "through: put the project into a folder that all machines share, or run `dvc "
                "remote add --default NAME URL`"
            ) from error
        index = self._repo.index
        self._stages = {stage.addressing: stage for stage in index.stages}
        self._graph = index.graph
        self._entries: dict[str, LockEntry] = {}
        self._ran: set[str] = set()

    def project(self) -> Kept:
        """The code, the params and all files that stages read and none makes.

        Raises PipelineError for one that lies outside of the project.
        """
        away = [stage for stage in self._stages.values() if stage.name not in AT_HOME]
        files = {path: stage for stage in away for path in self._own_files(stage)}
        for path, stage in files.items():
            if not path.is_relative_to(self._root):
                raise PipelineError(
                    f"{stage.addressing} reads {path}, which workers on other machines do not see: "
                    "copy it into the project, or put the project into a folder that all share"
                )
        names = {path.relative_to(self._root).as_posix() for path in files}
        paths = [*_CODE, *sorted(name for name in names if name.split("/")[0] not in _CODE)]
        label = location.label()
        return {
            "name": f"{self._root.name}-{hashlib.sha256(label.encode()).hexdigest()[:12]}",
            "paths": paths,
            "archive": _packed(self._root, paths),
            "remote": self._remote(),
            "label": label,
            "tracking": os.environ.get("MLFLOW_TRACKING_URI", "").startswith(_SHARED_STORES),
        }

    def _remote(self) -> dict[str, Any]:
        """The remote as the project's own configuration has it; its paths are absolute.

        Passwords in `.dvc/config.local` stay here: every machine has its own.
        """
        name = self._repo.config["core"]["remote"]
        own = self._repo.config.read("repo")["remote"].get(name)
        return {
            "name": name,
            "settings": dict(own or {"url": self._repo.config["remote"][name]["url"]}),
        }

    def stays(self, task: Task) -> bool:
        """Whether a task reads what only this machine has."""
        return any(self._stages[name].name.split("@")[0] in AT_HOME for name in task.stages)

    def note(self, task: Task) -> None:
        """Take notice of a task that ran in the project's own folder."""
        self._ran.update(task.stages)

    def send_inputs(self, task: Task) -> dict[str, LockEntry]:
        """Have the remote hold what other stages made for a task; returns what it is, by stage.

        Raises PipelineError when the remote does not take it.
        """
        stages = [self._stages[name] for name in task.stages]
        needed = {up for stage in stages for up in self._before(stage)} - set(stages)
        names = {stage.addressing for stage in needed} | {*_FETCHES} & self._stages.keys()
        return {name: self._sent(name) for name in sorted(names)}

    def _sent(self, name: str) -> LockEntry:
        if name not in self._entries:
            stage = self._stages[name]
            if name in self._ran:
                # dvc.lock, as it was when this sweep began, is of an earlier run.
                for item in (*stage.params, *stage.outs):
                    item.save()
            try:
                push_outputs(self._repo, stage)
            except (DvcException, OSError) as error:
                raise PipelineError(f"the DVC remote did not take {name}: {error}") from error
            self._entries[name] = entry_of(stage)
        return self._entries[name]

    def bring_home(self, task: Task, left: Left) -> None:
        """Fetch what another machine has made of a task, into the project's folder.

        Raises PipelineError when the remote does not give it.
        """
        log = self._root / task.log
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(left["log"])
        for name, figures in left["timings"].items():
            record_timing(name, **figures)
        for name, entry in left["made"].items():
            stage = self._stages[name]
            StageLoader.fill_from_lock(stage, entry)
            try:
                for objects in stage.get_used_objs().values():
                    self._repo.cloud.pull(objects)
                for out in stage.outs:
                    out.checkout(force=True)
            except (DvcException, OSError) as error:
                raise PipelineError(f"the DVC remote did not give {name}: {error}") from error
            self._entries[name] = entry_of(stage)

    def _before(self, stage: PipelineStage) -> list[PipelineStage]:
        """The stages that make what this one reads; a file of `dvc add` counts as the project's."""
        return [up for up in self._graph.successors(stage) if isinstance(up, PipelineStage)]

    def _own_files(self, stage: PipelineStage) -> Iterator[Path]:
        made = [Path(out.fs_path) for up in self._before(stage) for out in up.outs]
        for dep in stage.deps:
            path = Path(dep.fs_path)
            if not isinstance(dep, ParamsDependency) and not _overlaps(path, made):
                yield path


def push_outputs(repo: Repo, stage: PipelineStage) -> None:
    """Give a stage's outputs, as they are in the cache, to the remote. Raises OSError otherwise."""
    for objects in stage.get_used_objs().values():
        if failed := repo.cloud.push(objects).failed:
            raise OSError(f"{len(failed)} of {len(objects)} objects were refused")


def entry_of(stage: PipelineStage) -> LockEntry:
    """What dvc.lock says of a stage, dependencies apart, in plain values."""
    entry = to_single_stage_lockfile(stage)
    params = {path: dict(values) for path, values in entry.get("params", {}).items()}
    return {"cmd": entry["cmd"], "params": params, "outs": [dict(out) for out in entry["outs"]]}


def _packed(root: Path, paths: Iterable[str]) -> bytes:
    """The files at these paths of the project as an archive, with neither owner nor time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as archive:
        for path in paths:
            archive.add(root / path, arcname=path, filter=_bare)
    return buffer.getvalue()


def _bare(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if Path(member.name).name == "__pycache__":
        return None
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def _overlaps(path: Path, others: Iterable[Path]) -> bool:
    return any(path.is_relative_to(other) or other.is_relative_to(path) for other in others)
