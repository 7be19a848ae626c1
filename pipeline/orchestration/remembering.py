"""Hashes of what stages depend on, each computed once a sweep.

DVC hashes every dependency of a stage several times, and again for every stage; 40 files and
folders of code for each of 400 stages would take longer than tiny trainings. Here what was asked
once is known from then on. That is right within one sweep: a stage is asked for when all before it
are done, after which no stage writes what it reads; and code is what the workers imported, whatever
an editor writes meanwhile. A file that is edited while the sweep runs differs from what is recorded
of it, so that DVC runs again what it feeds.
"""

from collections.abc import Callable
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.stage import Stage

Answers = dict[tuple[Any, ...], Any]


class Remembered:
    """What is known of dependencies so far."""

    def __init__(self) -> None:
        self._answers: Answers = {}

    def attach(self, stage: Stage) -> None:
        """Let a stage's dependencies ask here first."""
        for dep in stage.deps:
            if isinstance(dep, ParamsDependency):
                dep.read_params = self._params(dep, dep.read_params)
            else:
                # All of DVC's ways to a hash lead through it, and it has no other seam.
                dep._build = self._once((dep.fs_path,), dep._build)

    def _once(self, key: tuple[Any, ...], ask: Callable[..., Any]) -> Callable[..., Any]:
        def answer(*args: Any, **kwargs: Any) -> Any:
            if key not in self._answers:
                self._answers[key] = ask(*args, **kwargs)
            return self._answers[key]

        return answer

    def _params(self, dep: ParamsDependency, ask: Callable[..., Any]) -> Callable[..., Any]:
        """Values of params.yaml, which workers read stage by stage: known until it is edited."""

        def answer(*args: Any, **kwargs: Any) -> Any:
            if not dep.exists:
                return ask(*args, **kwargs)
            info = dep.fs.info(dep.fs_path)
            key = (dep.fs_path, tuple(dep.params), info["mtime"], info["size"], info["ino"])
            return self._once(key, ask)(*args, **kwargs)

        return answer
