"""dvc.lock after sweeps of odd pipelines and odd pasts, by workers that only write a file."""

import re
from collections import deque
from pathlib import Path

import pytest
from dvc.repo import Repo

from pipeline.errors import PipelineError
from pipeline.orchestration.outcome import Outcome
from pipeline.orchestration.sweep import run_sweep
from pipeline.orchestration.task import Ended, Task

# `first` and `third` are the workers', `second` is another program's.
_STAGES = """\
stages:
  first:
    cmd: python -m pipeline first
    outs: [first]
  second:
    cmd: cp first second
    deps: [first]
    outs: [second]
  third:
    cmd: python -m pipeline third
    deps: [second]
    outs:
    - third:
        cache: false
  fourth:
    cmd: python -m pipeline fourth
    deps: [second]
    outs: [fourth]
"""


class Writers:
    """Workers that write each stage's output, but those of stages that fail."""

    def __init__(self, failing: tuple[str, ...]) -> None:
        self._failing = failing
        self._tasks: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        self._tasks.append(task)

    def wait(self) -> Ended:
        task = self._tasks.popleft()
        [stage] = task.stages
        if stage in self._failing:
            return Ended(task, error="it fails")
        Path(stage).write_text(stage)
        return Ended(task)

    def free(self) -> int:
        return 4 - len(self._tasks)

    def stop(self) -> None:
        self._tasks.clear()

    def close(self) -> None:
        pass


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    Repo.init(no_scm=True).close()
    (tmp_path / "dvc.yaml").write_text(_STAGES)
    return tmp_path


def sweep(*failing: str) -> Outcome:
    return run_sweep((), lambda: Writers(failing), 4)


def recorded(project: Path) -> list[str]:
    text = (project / "dvc.lock").read_text()
    return re.findall(r"^  (\S+):$", text, flags=re.MULTILINE)


def test_a_stage_of_another_program_stands_in_its_place(project: Path) -> None:
    assert sweep().ran == ["first", "second", "third", "fourth"]
    assert recorded(project) == ["first", "second", "third", "fourth"]
    assert not sweep().ran


def test_what_failed_stands_in_its_place_once_it_runs(project: Path) -> None:
    sweep()
    whole = (project / "dvc.lock").read_bytes()
    for name in ("dvc.lock", "third", "fourth"):
        (project / name).unlink()
    with pytest.raises(PipelineError, match=r"third: it fails"):
        run_sweep((), lambda: Writers(("third",)), 4, force=True)
    assert recorded(project) == ["first", "second", "fourth"]
    assert sweep().ran == ["third"]
    assert (project / "dvc.lock").read_bytes() == whole
    # What comes later follows, as it does when DVC adds it.
    zeroth = "  zeroth:\n    cmd: python -m pipeline zeroth\n    outs: [zeroth]\n"
    (project / "dvc.yaml").write_text(_STAGES.replace("stages:\n", f"stages:\n{zeroth}"))
    sweep()
    assert recorded(project)[-1] == "zeroth"


def test_a_file_that_somebody_else_wrote_since_keeps_its_order(project: Path) -> None:
    with pytest.raises(PipelineError):
        sweep("third")
    lock = project / "dvc.lock"
    entries = re.split(r"^(?=  \S)", lock.read_text(), flags=re.MULTILINE)
    lock.write_text("".join([entries[0], *reversed(entries[1:])]))
    sweep()
    assert recorded(project) == ["fourth", "second", "first", "third"]


def test_a_frozen_stage_is_left_alone(project: Path) -> None:
    sweep()
    text = _STAGES.replace("cp first second", "echo other > second")
    (project / "dvc.yaml").write_text(f"{text}    frozen: true\n")
    outcome = sweep()
    assert outcome.ran == ["second", "third"]
    assert outcome.unchanged == ["first", "fourth"]
