"""The study of what limits prefix tuning: its trials, their order, their lines and tables."""

import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from click.testing import CliRunner
from ruamel.yaml import YAML
from scipy.stats import ttest_ind

from benchmarks.quality import curves, folder, workers
from benchmarks.quality.__main__ import main
from benchmarks.quality.differences import differences
from benchmarks.quality.results import Line, appending, read_lines
from benchmarks.quality.study import STUDIES, Curves, read_study
from benchmarks.quality.table import frame
from benchmarks.quality.trials import Base, Trial, in_order
from pipeline.errors import PipelineError
from pipeline.prefix import KVPrefix
from tests.conftest import ROOT

_SHORT = {"train.epochs": None, "train.max_steps": 2, "train.warmup_steps": 0}


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Base:
    monkeypatch.chdir(ROOT)
    return Base()


def write(path: Path, **study: Any) -> Path:
    with path.open("w") as file:
        YAML(typ="safe").dump({"question": "Which?", "rows": ["method"], **study}, file)
    return path


def test_the_studies_that_are_there_can_be_run(base: Base) -> None:
    trials = in_order(sorted(STUDIES.glob("*.yaml")), base)
    identities = [json.dumps(trial.identity, sort_keys=True) for trial in trials]
    assert len(set(identities)) == len(identities) > 100
    alone = [trial.alone for trial in trials]
    assert any(alone)
    assert alone == sorted(alone, reverse=True)


def test_every_study_has_its_place_in_the_document() -> None:
    text = (ROOT / "docs" / "quality.md").read_text()
    for path in STUDIES.glob("*.yaml"):
        question = YAML(typ="safe").load(path.read_text())["question"]
        assert f"## {question}\n" in text
        assert f"<!-- {path.stem} begins. -->\n" in text
        assert f"<!-- {path.stem} ends. -->" in text


def test_the_lowest_place_is_first_and_what_two_studies_ask_for_is_tried_once(
    base: Base, tmp_path: Path
) -> None:
    seeds = {0: 5, 1: 1}
    one = write(tmp_path / "a.yaml", groups=[{"seeds": seeds, "vary": {"length": [4, 16]}}])
    other = write(
        tmp_path / "b.yaml",
        groups=[
            # As params.yaml has it: no other trial.
            {"seeds": {0: 0}, "set": {"train.learning_rate": 0.02, "length": 4}},
            {"seeds": {0: 9}, "alone": True, "set": {"method": "lora"}},
        ],
    )
    found = [trial.identity for trial in in_order([one, other], base)]
    start = {"method": "prefix", "start": "demonstrations"}
    assert found == [
        {"method": "lora", "seed": 0, "alone": True},
        {**start, "length": 4, "seed": 0},
        {**start, "length": 4, "seed": 1},
        {**start, "length": 16, "seed": 1},
        {**start, "length": 16, "seed": 0},
    ]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"train.learning_rat": 0.1}, "train.learning_rat: Extra inputs are not permitted"),
        ({"method": "adapters"}, "method 'adapters' is unknown; known: prefix, lora, full"),
        ({"method": "lora", "length": 4}, "length is of a prefix, and the method is lora"),
        ({"trained": "queries"}, "trained: queries is no keys or values"),
    ],
)
def test_a_mistake_is_told_before_any_work(
    keys: dict[str, Any], said: str, base: Base, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.yaml", groups=[{"seeds": {0: 0}, "set": keys}])
    with pytest.raises(PipelineError, match=f"{path}: {said}"):
        in_order([path], base)


def test_a_line_that_was_cut_off_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    appending(path)({"trial": 1})
    with path.open("a") as file:
        file.write('{"trial": 2, "sco')
    appending(path)({"trial": 3})
    assert read_lines(path) == [{"trial": 1}, {"trial": 3}]


class Ended(workers.Worker):
    """A worker whose process ends at a trial of seed 1, and whose trials take as long as said."""

    seconds = 0.0

    def _begin(self) -> None:
        self.renewed = getattr(self, "renewed", -1) + 1

    def end(self) -> None:
        """There is none."""

    def take(self, trial: Trial) -> "Future[Line]":
        future: Future[Line] = Future()
        if trial.seed == 1:
            future.set_exception(BrokenProcessPool("it ended"))
        else:
            took = {"seconds": self.seconds, "total_seconds": self.seconds, "steps": 63}
            future.set_result({"trial": trial.identity, **took})
        return future


def test_what_ends_a_process_is_a_line_and_ends_no_other(base: Base) -> None:
    trials = [base.trial("here", False, seed, {}) for seed in (0, 1, 2)]
    worker = Ended(Path(), trials[0])
    lines: list[Line] = []
    durations = workers.Durations(500)
    left = workers._run(trials, [worker], durations, time.monotonic() + 60, lines.append)
    assert not left
    assert [line["trial"]["seed"] for line in lines] == [0, 1, 2]
    assert lines[1]["error"] == "BrokenProcessPool: it ended"
    assert worker.renewed == 1


_AT_WORK = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pipeline.orchestration.starter import end_with_starter

pool = ProcessPoolExecutor(1, get_context("spawn"), end_with_starter)
print(pool.submit(os.getpid).result(), flush=True)
pool.submit(time.sleep, 600).result()
"""


def test_a_study_that_is_killed_leaves_no_process_at_work() -> None:
    with subprocess.Popen([sys.executable, "-c", _AT_WORK], stdout=subprocess.PIPE) as study:
        assert study.stdout is not None
        worker = psutil.Process(int(study.stdout.readline()))
        study.kill()
        worker.wait(60)


def test_no_trial_begins_that_would_last_too_long(base: Base) -> None:
    short, long = (base.trial("here", False, 0, {"train.epochs": epochs}) for epochs in (1, 8))
    worker = Ended(Path(), short)
    lines: list[Line] = []
    worker.seconds = 10.0
    order = [short, long, short]
    left = workers._run(
        order, [worker], workers.Durations(500), time.monotonic() + 60, lines.append
    )
    assert left == [long]
    assert len(lines) == 2


def test_what_is_left_starts_as_all_trials_do(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk, or what is chosen, is another one where the longest prefix is shorter."""
    keys = [{"start": "best_chunk", "length": 16}, {"start": "best_chunk", "length": 64}, {}]
    short, long, other = (base.trial("here", False, 0, own) for own in keys)
    written: list[tuple[str, int]] = []
    monkeypatch.setattr(folder, "_write_start", lambda _, *start: written.append(start))
    folder.write_starts([short], [long, other, short])
    assert written == [("best_chunk", 64)]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> Path:
    """The files that trials read, of a tiny model, in the working folder."""
    for name in ("params.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "corpora", tmp_path / "corpora")
    folder = tmp_path / "inputs" / "webnlg"
    folder.mkdir(parents=True)
    for name in ("train", "dev", "test_seen", "test_unseen"):
        rows = [
            {"triples": [f"{name} {i} | is | {i}"], "references": [f"{name} {i} is {i}."]}
            for i in range(16)
        ]
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    # In this process: another would import torch again.
    monkeypatch.setattr(workers, "ProcessPoolExecutor", _in_threads)
    return tmp_path


def _in_threads(count: int, _: Any, begin: Any, given: Any) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, initializer=begin, initargs=given)


@pytest.mark.slow
def test_trials_become_lines_and_lines_a_table(
    repository: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[Any, KVPrefix, KVPrefix]] = []
    _keep_starts(monkeypatch, kept)
    study = write(
        repository / "lengths.yaml",
        rows=["method", "length", "trained", "train_size"],
        plot={"x": "length", "title": "length", "series": ["method"]},
        set=_SHORT,
        groups=[
            {"seeds": {0: 1, 1: 2}, "vary": {"length": [2, 4]}},
            {"seeds": {0: 3}, "vary": {"trained": ["keys", "values"]}},
            {"seeds": {0: 4}, "alone": True, "vary": {"method": ["lora", "full"]}},
            {"seeds": {0: 5}, "set": {"train_size": 500}},
        ],
    )
    own = [f"model={{source: local, path: {model_folder}}}", "task.max_length=200"]
    arguments = [str(study), "--device", "cpu", "--output", "results.jsonl"]
    arguments += [part for key in own for part in ("--set", key)]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    lines = read_lines(Path("results.jsonl"))
    assert [line["trial"]["method"] for line in lines[:2]] == ["lora", "full"]
    assert len(lines) == 9
    (failed,) = (line for line in lines if "error" in line)
    assert "sweep.train_sizes: 500 is above the 16 examples" in failed["error"]
    for line in lines:
        if "error" not in line:
            assert line["steps"] == 2
            assert [step for step, _ in line["validation"]] == [0, 2]
            assert set(line["scores"]) == {"test", "test_unseen"}
            assert set(line["scores"]["test"]) == {"loss", "perplexity", "bleu", "chrf"}
    moved = {trained: _moved(start, end) for trained, start, end in kept}
    assert moved == {None: {"keys", "values"}, "keys": {"keys"}, "values": {"values"}}

    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert "9 trials, 8 of them done" in result.output
    assert len(read_lines(Path("results.jsonl"))) == 10

    Path("docs").mkdir()
    page = Path("docs/quality.md")
    page.write_text("# A page\n\n<!-- lengths begins. -->\nold\n<!-- lengths ends. -->\nmore\n")
    shown = [*arguments, "--tables", "results.jsonl"]
    result = CliRunner().invoke(main, shown, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (repository / "docs" / "quality" / "lengths.png").read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert "old" not in text
    assert text.endswith("<!-- lengths ends. -->\nmore\n")
    assert "| method   | length   | trained   | train size   | seeds   |" in text
    assert "Failed: {'method': 'prefix'" in text


def test_losses_are_drawn_over_the_passes_of_the_trainings_that_a_study_names(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr(curves, "picture", lambda _, __, rows, *___, **____: drawn.extend(rows))
    named = Curves(of={"train.epochs": 2}, series=["method", "length"])
    keys: list[dict[str, Any]] = [
        {"train.epochs": 2},
        {"train.epochs": 1},
        {"train.epochs": 2, "method": "lora"},
    ]
    trials = [base.trial("here", False, seed, own) for own in keys for seed in (0, 1)]
    lines = [_trained(trial, loss=float(trial.seed)) for trial in trials[:4]]
    assert curves.draw_curves(named, "Which?", trials, lines, tmp_path / "no.png")
    found = [(row["series"], row["panel"], row["x"], row["y"]) for row in drawn]
    # Means over the seeds and over each pass; nothing of one pass, nor of what has no line.
    own = "prefix, length 16"
    assert found == [
        (own, "training loss", 1.0, 2.5),
        (own, "training loss", 2.0, 6.5),
        (own, "validation loss", 1.0, 8.5),
        (own, "validation loss", 2.0, 7.5),
    ]
    assert not curves.draw_curves(named, "Which?", trials, lines[2:], tmp_path / "no.png")


def test_a_row_is_chosen_by_the_seeds_that_its_rivals_have_too(base: Base, tmp_path: Path) -> None:
    vary = {"train.learning_rate": [0.02, 0.04]}
    path = write(
        tmp_path / "a.yaml",
        rows=["method", "train.learning_rate"],
        chosen_by_validation="train.learning_rate",
        groups=[{"seeds": {0: 0, 1: 1}, "vary": vary}],
    )
    trials = in_order([path], base)
    # The second seed is a lucky one, and only the first rate has it.
    losses = {(0.02, 0): 1.0, (0.02, 1): 0.0, (0.04, 0): 0.9}
    lines = [
        _measured(trial, losses[key])
        for trial in trials
        if (key := (trial.value("train.learning_rate"), trial.seed)) in losses
    ]
    found = frame(read_study(path), trials, lines)
    assert list(found["learning rate"]) == [0.04]
    assert list(found["seeds"]) == [1]
    assert found["validation loss"].item() == pytest.approx(0.9)


def test_methods_are_compared_with_intervals_over_seeds(base: Base, tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.yaml",
        rows=["method", "train_size"],
        compares="method",
        groups=[
            {"seeds": {0: 0, 1: 1, 2: 2}, "vary": {"method": ["prefix", "lora"]}},
            {
                "seeds": {0: 3},
                "set": {"train_size": 8},
                "vary": {"method": ["prefix", "lora"]},
            },
        ],
    )
    study = read_study(path)
    losses = {"prefix": [1.0, 1.1, 1.3], "lora": [2.0, 2.4, 2.5]}
    trials = in_order([path], base)
    lines = [_measured(trial, losses[trial.method][trial.seed]) for trial in trials]
    found = differences(study, frame(study, trials, lines))
    # One seed says nothing of the next.
    assert found["difference"].tolist() == ["prefix - lora"]
    expected = ttest_ind(*losses.values(), equal_var=False).confidence_interval()
    assert found["validation loss"].tolist() == [
        f"-1.167 [{expected.low:.3f}, {expected.high:.3f}]"
    ]


def _measured(trial: Trial, loss: float) -> Line:
    """The line of a trial that ends with this loss on validation, its lowest."""
    trained = _trained(trial, loss - 7)
    return {**trained, "best_step": 4, "step_seconds": None, "scores": {}, "parameters": 8}


def _trained(trial: Trial, loss: float) -> Line:
    return {
        "trial": trial.identity,
        "steps": 4,
        "train": [1 + loss, 3 + loss, 5 + loss, 7 + loss],
        "validation": [[0, 9 + loss], [2, 8 + loss], [4, 7 + loss]],
    }


def _keep_starts(monkeypatch: pytest.MonkeyPatch, kept: list[Any]) -> None:
    from benchmarks.quality import methods

    train = methods._train

    def keeping(trial: Trial, model: Any, *rest: Any, **named: Any) -> Any:
        start = model.kv_prefix()
        result = train(trial, model, *rest, **named)
        if start is not None:
            kept.append((trial.trained, start, result.prefix))
        return result

    monkeypatch.setattr(methods, "_train", keeping)


def _moved(start: KVPrefix, end: KVPrefix) -> set[str]:
    pairs = {"keys": (start.keys, end.keys), "values": (start.values, end.values)}
    return {
        name
        for name, (before, after) in pairs.items()
        if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    }
