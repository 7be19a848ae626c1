"""Which stages a sweep may run, in which order, and what each waits for."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.stage import PipelineStage, Stage

from pipeline.errors import PipelineError

_COMMAND = ("python", "-m", "pipeline")


@dataclass(frozen=True)
class Plan:
    """The stages of `dvc repro`, named as in its output, in its serial order."""

    stages: dict[str, Stage]
    upstream: dict[str, frozenset[str]]
    """Of each stage, those in the plan that it waits for."""
    force: bool
    """Whether all run, changed or not."""

    def dependents(self, name: str) -> list[str]:
        """All stages that cannot run without this one, in order."""
        lost = {name}
        for stage, needed in self.upstream.items():
            if needed & lost:
                lost.add(stage)
        return [stage for stage in self.stages if stage in lost and stage != name]


def plan_of(repo: Repo, targets: Sequence[str], force: bool) -> Plan:
    """The plan of targets, or of all; what stands before them belongs to it.

    Raises PipelineError for what DVC cannot read, or knows no stage of.
    """
    try:
        index = repo.index
        graph = get_active_graph(index.graph)
        own = str(Path(repo.root_dir, "dvc.yaml"))
        if targets:
            wanted = [stage for target in targets for stage in _found(repo, target)]
        else:
            wanted = [stage for stage in index.stages if stage.path == own]
        steps = plan_repro(graph, list(dict.fromkeys(wanted)))
    except DvcException as error:
        raise PipelineError(" ".join(str(error).split())) from error
    known = set(steps)
    return Plan(
        {stage.addressing: stage for stage in steps},
        {
            stage.addressing: frozenset(s.addressing for s in graph.successors(stage) if s in known)
            for stage in steps
        },
        force,
    )


def _found(repo: Repo, target: str) -> list[Stage]:
    """The stages that a target names: one, all of a group (`train`), or those of a file."""
    stages = repo.index.stages
    named = [stage for stage in stages if stage.addressing == target]
    named = named or [stage for stage in stages if stage.addressing.startswith(f"{target}@")]
    # Not asked first: it reads the whole file again.
    found: list[Stage] = named or list(repo.stage.collect(target))
    return found


def command_of(stage: Stage) -> tuple[str, ...] | None:
    """The arguments after `python -m pipeline`; None for a stage that is no command of it."""
    command: Any = stage.cmd
    if not isinstance(stage, PipelineStage) or not isinstance(command, str) or stage.frozen:
        return None
    words = tuple(shlex.split(command))
    is_own = words[: len(_COMMAND)] == _COMMAND and Path(stage.wdir) == Path(stage.repo.root_dir)
    return words[len(_COMMAND) :] if is_own else None
