"""Writing `dvc.lock` many stages at a time, with the bytes that DVC itself would leave.

DVC reads and writes the whole file for every stage, by a parser that keeps its layout: in all the
square of the stages. Here a stage's lines are made once, by DVC's own functions, and stand as they
are among those of the others.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from dvc.stage import PipelineStage
from dvc.stage.serialize import to_single_stage_lockfile
from dvc.utils.serialize import dumps_yaml

from pipeline.errors import PipelineError
from pipeline.orchestration.task import LOGS
from pipeline.storage.atomic import atomic_file
from pipeline.storage.records import read_json, write_json

_HEAD = "schema: '2.0'\nstages:\n"
# `  train@8-random-0:`, and all below it, which is indented by more; an empty line is a text's.
_STAGE = re.compile(r"  ([\w@./+-]+):\n(?:(?:    .*)?\n)*")


class LockFile:
    """The lock file of the repository's own `dvc.yaml`.

    Stages that it holds stay where they are; others follow in the order of `places`, which is that
    of a serial `dvc repro`. So they do after a sweep that was stopped, or in which a stage failed:
    which stages it added is remembered, as long as nobody else writes the file.
    """

    def __init__(self, path: Path, places: Mapping[str, int]) -> None:
        self._path = path
        self._places = places
        self._stages: dict[str, PipelineStage] = {}
        self._written: dict[str, str] = {}
        self._unfinished = path.parent / LOGS / "unfinished.json"
        self._added: set[str] = self._added_before() & places.keys()

    def record(self, stage: PipelineStage) -> None:
        """Take over a finished stage at the next `write`."""
        self._stages[stage.name] = stage

    def write(self) -> None:
        """Bring all that was recorded into the file, in place of the one before."""
        if not self._stages:
            return
        found = self._found()
        if found is None:
            # Somebody's comments, or what this writer does not know: DVC keeps them.
            for stage in self._in_order(self._stages):
                self._stages[stage].dump(update_pipeline=False)
        else:
            self._written = {name: _lines(stage) for name, stage in self._stages.items()}
            self._added |= self._written.keys() - found.keys()
            before = {name: text for name, text in found.items() if name not in self._added}
            added = {**found, **self._written}
            blocks = [self._written.get(name, text) for name, text in before.items()]
            blocks += [added[name] for name in self._in_order(self._added & added.keys())]
            with atomic_file(self._path) as aside:
                aside.write_text(_HEAD + "".join(blocks), encoding="utf-8")
            write_json(self._unfinished, {"lock": self._digest(), "added": sorted(self._added)})
        self._stages = {}

    def complete(self) -> None:
        """Have what was added stay where it is from now on: nothing is missing among it."""
        self._unfinished.unlink(missing_ok=True)

    def _added_before(self) -> set[str]:
        """What sweeps added that did not come to their end, if the file is as they left it."""
        if not (self._unfinished.exists() and self._path.exists()):
            return set()
        try:
            known = read_json(self._unfinished)
        except PipelineError:
            return set()
        return set(known["added"]) if known["lock"] == self._digest() else set()

    def _digest(self) -> str:
        return hashlib.sha256(self._path.read_bytes()).hexdigest()

    def _in_order(self, names: "Mapping[str, PipelineStage] | set[str]") -> list[str]:
        return sorted(names, key=lambda name: self._places[name])

    def _found(self) -> dict[str, str] | None:
        """The lines of each stage in the file; None where they are not laid out as DVC does."""
        if not self._path.exists():
            return {}
        text = self._path.read_text(encoding="utf-8")
        rest = text.removeprefix(_HEAD)
        stages = list(_STAGE.finditer(rest))
        if rest == text or "".join(stage[0] for stage in stages) != rest:
            return None
        return {stage[1]: stage[0] for stage in stages}


def _lines(stage: PipelineStage) -> str:
    entry = {"stages": {stage.name: to_single_stage_lockfile(stage)}}
    return str(dumps_yaml(entry).removeprefix("stages:\n"))
