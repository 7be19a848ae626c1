"""Long work says how long: bars on a terminal, few lines in a log, none in CI, and the sweep's."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load_params
from pipeline.progress import bar as bars
from pipeline.progress.bar import Bar, following
from pipeline.progress.overall import Overall, watched
from pipeline.standing.durations import durations, record_duration
from pipeline.standing.standing import Standing
from pipeline.standing.steps import Kind, Step, all_steps
from pipeline.sweep.variants import Variant
from tests.conftest import Workspace

DRAWN = "\r"


@pytest.fixture(autouse=True)
def _not_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


def on_a_terminal(*command: str, columns: int = 120, **settings: Any) -> str:
    """What a command draws on a terminal; both of its streams are one."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with subprocess.Popen(command, stdout=follower, stderr=follower, **settings) as running:
        os.close(follower)
        drawn = b""
        while True:
            try:
                piece = os.read(leader, 4096)
            except OSError:  # how Linux says that the last writer is gone
                break
            if not piece:
                break
            drawn += piece
        os.close(leader)
    assert running.returncode == 0, drawn.decode()
    return drawn.decode()


WORK = """
from pipeline.progress.bar import Bar
from pipeline.progress.overall import Overall, watched
with watched(Overall(8, 3, 2, lambda fraction, elapsed: f"{fraction:.2f} of this")):
    for piece in range(2):
        with Bar(4, "work", "step") as bar:
            for step in range(4):
                bar.update(note=f"loss {step}")
print("after")
"""


def test_a_terminal_has_a_bar_and_the_wholes_below_it() -> None:
    drawn = on_a_terminal(sys.executable, "-c", WORK, cwd=Path(__file__).parent.parent)
    assert "work: 100%" in drawn
    assert "loss 3" in drawn
    # 3 of 8 steps, and half of the fourth after the first of its two bars.
    assert "sweep:  38%" in drawn
    assert "sweep:  44%" in drawn
    assert "0.50 of this" in drawn
    assert "100%" not in drawn.split("sweep:", 1)[1].split("\r")[0]
    assert drawn.rstrip().endswith("after")
    # The whole's bar is gone: what is printed next stands below the piece's own.
    assert "sweep" not in drawn.rsplit("work: 100%", 1)[1].split("after")[0].rsplit("\x1b[A", 1)[-1]


def test_ci_has_none_on_a_terminal_either() -> None:
    """Some services run their commands on one, and keep each state of a bar."""
    environment = {**os.environ, "CI": "true"}
    root = Path(__file__).parent.parent
    drawn = on_a_terminal(sys.executable, "-c", WORK, cwd=root, env=environment)
    assert drawn.split() == ["after"]


def test_a_log_has_few_lines(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    with Bar(100, "train", "step", initial=10) as bar:
        for step in range(90):
            now[0] += 1.0
            bar.update(note=f"loss {step}")
    assert capfd.readouterr().err.splitlines() == [
        "train: 40 of 100 steps, loss 29",
        "train: 70 of 100 steps, loss 59",
        "train: 100 of 100 steps, loss 89",
    ]


def test_ci_has_none(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert list(following(range(3), "tokenize", "example")) == [0, 1, 2]
    assert capfd.readouterr().err == ""


LIBRARIES = """
from pipeline.progress.watching import quiet_libraries
quiet_libraries()
from huggingface_hub.utils import tqdm as of_the_hub
from tqdm import tqdm
from tqdm.auto import tqdm as auto
for bar in (tqdm, auto, of_the_hub):
    assert list(bar(range(3))) == [0, 1, 2]
print("after")
"""


def test_libraries_draw_bars_on_a_terminal_alone() -> None:
    root = Path(__file__).parent.parent
    command = (sys.executable, "-c", LIBRARIES)
    log = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert (log.stdout, log.stderr) == ("after\n", "")
    assert on_a_terminal(*command, cwd=root).count("3/3") == 3


REMARKS = """
from pipeline.progress.watching import quiet_libraries
quiet_libraries()
import torchao
print("after")
"""


def test_libraries_that_only_are_installed_say_nothing() -> None:
    command = (sys.executable, "-c", REMARKS)
    root = Path(__file__).parent.parent
    log = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert (log.stdout, log.stderr) == ("after\n", "")


def test_a_bar_that_is_not_shown_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    moved: list[float] = []
    overall = Overall(2, 0, 1, lambda fraction, _: moved.append(fraction) or "")  # type: ignore[func-returns-value]
    with watched(overall), Bar(3, "", "example", shown=False) as bar:
        bar.update(3)
    assert capfd.readouterr().err == ""
    assert moved == []


def test_what_shows_the_whole_fails_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Overall, "move", lambda *_: 1 / 0)
    with watched(Overall(2, 0, 1, lambda *_: "")), Bar(3, "work", "step") as bar:
        bar.update(3)


def step(length: int, kind: Kind, size: int | None = None) -> Step:
    variant = Variant(length, "random", 0, size)
    return Step(variant, kind, f"{kind.value}@{variant.name}")


TRAIN8, TRAIN32 = (step(length, Kind.TRAINING) for length in (8, 32))
EVAL8, EVAL32 = (step(length, Kind.MEASUREMENT) for length in (8, 32))


@pytest.mark.parametrize(
    ("standing", "at", "expected"),
    [
        (
            Standing(TRAIN8, [], [TRAIN32, EVAL8, EVAL32], {}),
            (0.0, 0.0),
            "0 of 2 trained, 0 of 2 measured",
        ),
        # A quarter in 30 s: 90 s of this one and 120 s of the next; of measuring nothing is known.
        (
            Standing(TRAIN8, [], [TRAIN32, EVAL8, EVAL32], {}),
            (0.25, 30.0),
            "0 of 2 trained, 0 of 2 measured, about 4 min of training left",
        ),
        # The stage's own pace counts from a tenth on.
        (
            Standing(TRAIN8, [], [EVAL8], {}),
            (0.05, 30.0),
            "0 of 1 trained, 0 of 1 measured",
        ),
        (
            Standing(EVAL8, [TRAIN8], [TRAIN32, EVAL32], {TRAIN8: 100.0, EVAL8: 999.0}),
            (0.5, 20.0),
            "1 of 2 trained, 0 of 2 measured, about 3 min left",
        ),
        (
            Standing(EVAL32, [TRAIN8, TRAIN32, EVAL8], [], {EVAL8: 40.0}),
            (0.0, 0.0),
            "2 of 2 trained, 1 of 2 measured, about 40 s left",
        ),
        # Only the measurement changed: trainings are done, however long they once took.
        (
            Standing(EVAL8, [TRAIN8, TRAIN32], [EVAL32], {TRAIN8: 500.0, EVAL32: 7200.0}),
            (0.0, 0.0),
            "2 of 2 trained, 0 of 2 measured, about 4 h 0 min left",
        ),
    ],
)  # fmt: skip
def test_the_sentence(standing: Standing, at: tuple[float, float], expected: str) -> None:
    assert standing.sentence(*at) == expected


def test_a_step_takes_as_long_as_those_most_like_it() -> None:
    known = {
        TRAIN8: 10.0,
        TRAIN32: 50.0,
        step(8, Kind.TRAINING, 50): 1.0,
        EVAL8: 1000.0,
    }
    other = Step(Variant(32, "zero", 1), Kind.TRAINING, "train@32-zero-1")
    standing = Standing(other, [*known], [], known)
    assert standing.sentence().endswith("about 50 s left")
    longer = Step(Variant(64, "zero", 1), Kind.TRAINING, "train@64-zero-1")
    assert Standing(longer, [*known], [], known).sentence().endswith("about 30 s left")


def _faster(workspace: Workspace) -> None:
    workspace.edit(lambda p: p["train"].update(learning_rate=1e-3))


def _longer_answers(workspace: Workspace) -> None:
    workspace.edit(lambda p: p["evaluate"].update(max_new_tokens=5))


def _another_length(workspace: Workspace) -> None:
    workspace.edit(lambda p: p["sweep"]["lengths"].append(3))


def _another_text(workspace: Workspace) -> None:
    (workspace.root / "texts" / "corpus.txt").write_text("A changed text about fields. " * 3)


def _other_code(workspace: Workspace) -> None:
    path = workspace.root / "pipeline" / "evaluation" / "measure.py"
    path.write_text(path.read_text() + "# edited\n")


def _other_data(workspace: Workspace) -> None:
    path = workspace.root / "inputs" / "train.jsonl"
    path.write_text(path.read_text() * 2)


def _lost_output(workspace: Workspace) -> None:
    (workspace.root / "data" / "train" / "len2-random-seed0" / "prefix.safetensors").unlink()


def _fewer(workspace: Workspace) -> None:
    _faster(workspace)
    workspace.edit(lambda p: p["sweep"].update(lengths=[4]))


@pytest.mark.real
@pytest.mark.parametrize(
    ("edit", "stage", "expected"),
    [
        (_faster, "train@2-random-0", "0 of 4 trained, 1 of 5 measured"),
        (_longer_answers, "evaluate@2-random-0", "4 of 4 trained, 0 of 5 measured"),
        (_another_length, "train@3-corpus-0", "4 of 6 trained, 5 of 7 measured"),
        (_another_text, "train@2-corpus-0", "2 of 4 trained, 3 of 5 measured"),
        (_other_code, "evaluate@2-random-0", "4 of 4 trained, 0 of 5 measured"),
        (_other_data, "train@2-random-0", "0 of 4 trained, 0 of 5 measured"),
        (_lost_output, "train@2-random-0", "3 of 4 trained, 4 of 5 measured"),
        (_fewer, "train@4-random-0", "0 of 2 trained, 1 of 3 measured"),
    ],
)  # fmt: skip
def test_what_earlier_params_left_is_not_done(
    copy: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    edit: Callable[[Workspace], None],
    stage: str,
    expected: str,
) -> None:
    edit(copy)
    monkeypatch.chdir(copy.root)
    standing = Standing.at(load_params(), stage)
    assert standing is not None
    assert standing.sentence().startswith(expected)


@pytest.mark.real
def test_nothing_is_said_of_a_stage_that_was_up_to_date(
    finished: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dvc repro --force` runs it, and who knows what else."""
    monkeypatch.chdir(finished.root)
    params = load_params()
    assert [Standing.at(params, step.stage) for step in all_steps(params)] == [None] * 9
    assert Standing.at(params, "report") is None


@pytest.mark.real
def test_durations_are_those_of_todays_params(
    copy: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy.root)
    steps = all_steps(load_params())
    measured = durations(load_params(), steps)
    assert list(measured) == steps
    assert all(0 < seconds < 600 for seconds in measured.values())
    _longer_answers(copy)
    assert {step.kind for step in durations(load_params(), steps)} == {Kind.TRAINING}
    record_duration(load_params(), steps[1], 7.5)
    assert durations(load_params(), steps)[steps[1]] == 7.5
    path = copy.root / "data" / "timings" / "stages" / f"{steps[1].stage}.json"
    noted = path.read_text()
    for damaged in ("{", noted.replace("7.5", "NaN"), noted.replace("7.5", "Infinity")):
        path.write_text(damaged)
        assert steps[1] not in durations(load_params(), steps)


@pytest.mark.real
def test_dvc_repro_shows_the_sweep(copy: Workspace) -> None:
    """On a terminal, in a log, in CI; and a command typed by hand is no part of it."""
    environment = {**copy.environment, "CI": ""}
    _another_length(copy)
    drawn = on_a_terminal("dvc", "repro", "evaluate@3-random-0", cwd=copy.root, env=environment)
    assert "sweep:" in drawn
    assert "4 of 6 trained, 5 of 7 measured, about" in drawn
    assert "5 of 6 trained, 5 of 7 measured, about" in drawn

    def logged(*command: str, **variables: str) -> str:
        return subprocess.run(
            command, cwd=copy.root, capture_output=True, text=True, check=True,
            env={**environment, **variables},
        ).stderr  # fmt: skip

    # A new store: MLflow has much to say of it.
    (copy.root / "mlflow.db").unlink()
    log = logged("dvc", "repro", "evaluate@3-corpus-0")
    assert DRAWN not in log
    lines = log.splitlines()
    assert [line for line in lines if line.startswith(("sweep", "train"))] == [
        next(line for line in lines if line.startswith("sweep: 5 of 6 trained, 6 of 7 measured")),
        next(line for line in lines if line.startswith("train: 4 of 4 steps, loss ")),
        next(line for line in lines if line.startswith("sweep: 6 of 6 trained, 6 of 7 measured")),
    ]
    assert "evaluate test: 5 of 5 examples" in lines
    assert " INFO " not in log
    _longer_answers(copy)
    assert logged("dvc", "repro", "--single-item", "evaluate@3-corpus-0", CI="true") == ""
    by_hand = ("evaluate", "--length", "3", "--initialization", "corpus", "--seed", "0")
    assert "sweep" not in logged("python", "-m", "pipeline", *by_hand)


def test_a_resumed_training_is_timed_by_what_it_did_here() -> None:
    told: list[tuple[float, float]] = []

    def sentence(fraction: float, elapsed: float) -> str:
        told.append((fraction, elapsed))
        return ""

    overall = Overall(4, 1, 1, sentence)
    assert not overall.was_resumed
    overall.begin(0.5)
    overall._bar = _Silent()
    overall._began = time.monotonic() - 10
    overall.move(0.75)
    ((fraction, elapsed),) = told
    assert (fraction, round(elapsed)) == (0.75, 30)
    assert overall.was_resumed


class _Silent:
    n = 0.0

    def set_description_str(self, *_: object, **__: object) -> None: ...

    def refresh(self) -> None: ...


def test_every_bar_is_one_of_these() -> None:
    """What draws by itself leaves hundreds of states in a log."""
    root = Path(__file__).parent.parent / "pipeline"
    drawing = {path.parent.name for path in root.rglob("*.py") if "import tqdm" in path.read_text()}
    assert drawing == {"progress"}
