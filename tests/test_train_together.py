"""The stage `train` of several variants at once writes what it writes for each alone."""

import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from pipeline.config import Params, load_params
from pipeline.errors import PipelineError, StoppedError
from pipeline.prefix import KVPrefix
from pipeline.stages import train, train_together
from pipeline.storage.records import read_json
from pipeline.sweep.variants import Variant
from pipeline.training import together
from pipeline.training.joint_loss import Share
from pipeline.workspace import paths
from pipeline.workspace.timings import TrainingClock, read_timing
from tests.faults.kills import forget
from tests.faults.training_folder import (
    OUTS,
    faulty_params,
    make_training_folder,
    working_in,
    write_params,
)

VARIANTS = (
    Variant(2, "corpus", 0),
    Variant(4, "corpus", 1, learning_rate=2e-2),
    Variant(3, "corpus", 0, 7),
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which each was trained alone; the outputs are in `alone`."""
    folder = tmp_path_factory.mktemp("together")
    make_training_folder(folder)
    with pytest.MonkeyPatch.context() as patch, working_in(folder):
        # Nothing there, and no waiting for it: outboxes keep what was to reach MLflow.
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        params = load_params()
        for variant in VARIANTS:
            train.run(params, variant)
        paths.TRAIN.rename("alone")
        (folder / "checkpoints").mkdir()
        for checkpoint in paths.CHECKPOINTS.glob("len*"):
            (folder / "checkpoints" / checkpoint.name).touch()
        yield folder


@pytest.fixture
def folder(alone: Path) -> Path:
    forget(alone)
    shutil.rmtree(alone / paths.TIMINGS, ignore_errors=True)
    return alone


def assert_as_alone(folder: Path, variant: Variant) -> None:
    found, expected = folder / paths.TRAIN / variant.name, folder / "alone" / variant.name
    assert sorted(path.name for path in found.iterdir()) == sorted(OUTS)
    ours, theirs = (KVPrefix.load(at / "prefix.safetensors") for at in (found, expected))
    for tensor, other in zip((*ours.keys, *ours.values), (*theirs.keys, *theirs.values)):  # noqa: B905
        assert (tensor - other).abs().max() < 1e-5
    assert read_json(found / "metrics.json") == pytest.approx(
        read_json(expected / "metrics.json"), rel=1e-5
    )
    ours_table, theirs_table = (pd.read_csv(at / "history.csv") for at in (found, expected))
    pd.testing.assert_frame_equal(ours_table, theirs_table, rtol=1e-4)


def ends(folder: Path) -> dict[str, list[str]]:
    """How the runs in MLflow of each training have ended, as its outboxes tell."""
    found: dict[str, list[str]] = {}
    for path in sorted((folder / paths.OUTBOX).glob("*.jsonl")):
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        name = entries[0]["run"]["name"]
        found.setdefault(name, []).extend(e["end"]["status"] for e in entries if "end" in e)
    return found


def test_outputs_are_those_of_each_alone(folder: Path) -> None:
    train_together.run(load_params(), VARIANTS)
    for variant in VARIANTS:
        assert_as_alone(folder, variant)
        assert read_timing(variant.name).keys() == {
            "training_seconds",
            "training_tokens_per_second",
        }
    assert ends(folder) == {variant.name: ["FINISHED"] for variant in VARIANTS}
    # Of the same digests: each can go on from what the other way left.
    names = {path.name for path in (folder / paths.CHECKPOINTS).glob("len*")}
    assert names == {path.name for path in (folder / "checkpoints").iterdir()}
    assert list((folder / paths.TRAIN).rglob("*.partial")) == []


def test_stopped_together_each_goes_on_where_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = TrainingClock.log_step
    sent: list[int] = []

    def log_step(self: TrainingClock, step: int, metrics: Mapping[str, float]) -> None:
        real(self, step, metrics)
        if step == 7 and not sent:
            sent.append(step)
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingClock, "log_step", log_step)
        with pytest.raises(StoppedError) as stopped:
            train_together.run(load_params(), VARIANTS)
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    for variant in VARIANTS:
        assert f"{variant.name}: stopped by SIGTERM after step 7 of 24" in str(stopped.value)
    assert ends(folder) == {variant.name: ["FAILED"] for variant in VARIANTS}
    capsys.readouterr()
    train.run(load_params(), VARIANTS[0])
    train_together.run(load_params(), VARIANTS[1:])
    assert capsys.readouterr().out.count("going on after step 7 of 24, from the checkpoint") == 3
    for variant in VARIANTS:
        assert_as_alone(folder, variant)


def test_a_failed_one_is_told_of_and_the_others_are_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose numbers go bad, and one that cannot begin."""
    real = together.losses_together
    rows: list[int] = []

    def failing(shares: Sequence[Share]) -> list[torch.Tensor]:
        rows.append(len(shares))
        # Two rows a step: the sixth.
        bad = 4 if len(rows) == 11 else None
        losses = zip(shares, real(shares), strict=True)
        return [x * float("nan") if s.loss_of.model.prefix_length == bad else x for s, x in losses]

    monkeypatch.setattr(together, "losses_together", failing)
    absent = Variant(2, "nowhere", 0)
    with pytest.raises(PipelineError) as told:
        train_together.run(load_params(), (absent, *VARIANTS))
    assert str(told.value).startswith("len2-nowhere-seed0: ")
    assert f"; {VARIANTS[1].name}: sweep.learning_rates: at step 6 the loss" in str(told.value)
    assert str(told.value).count("; len") == 1
    assert set(rows) == {3, 2}
    assert not (folder / paths.TRAIN / VARIANTS[1].name).exists()
    for variant in (VARIANTS[0], VARIANTS[2]):
        assert_as_alone(folder, variant)
    assert ends(folder)[VARIANTS[1].name] == ["FAILED"]


def test_memory_that_ends_is_told_with_the_remedy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: Sequence[Share]) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(together, "losses_together", failing)
    with pytest.raises(PipelineError, match="with 3 variants together; lower"):
        train_together.run(load_params(), VARIANTS)
    assert ends(folder) == {variant.name: ["FAILED"] for variant in VARIANTS}


ONE_AFTER_ANOTHER: dict[str, tuple[dict[str, Any], str]] = {
    "rows that are not packed": (
        {"prefix": {"layers": [1]}},
        "the prefix is for some layers alone",
    ),
    "rates that are searched": (
        {"train": {"learning_rate": "auto", "learning_rate_search": {"candidates": 2}}},
        "train.learning_rate: auto searches the rate of one variant at a time",
    ),
}


@pytest.mark.parametrize("what", ONE_AFTER_ANOTHER)
def test_what_cannot_train_together_trains_one_after_another(
    what: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, reason = ONE_AFTER_ANOTHER[what]
    params = faulty_params(Path("inputs/model"))
    params["train"] |= {"max_steps": 3}
    for section, keys in changes.items():
        params[section] |= keys
    write_params(folder, params)
    try:
        train_together.run(load_params(), VARIANTS[:2])
    finally:
        write_params(folder, faulty_params(Path("inputs/model")))
    told = f"{reason}: these variants train one after another"
    assert told in capsys.readouterr().out
    for variant in VARIANTS[:2]:
        assert (folder / paths.TRAIN / variant.name / "metrics.json").exists()


def at(rate: Any) -> Params:
    params = load_params()
    return params.model_copy(
        update={"train": params.train.model_copy(update={"learning_rate": rate})}
    )


def test_a_further_rate_is_trained_at_as_the_rate_of_all(folder: Path) -> None:
    plain, listed = Variant(4, "corpus", 1), VARIANTS[1]
    train.run(at(listed.learning_rate), plain)
    for name in OUTS:
        found, expected = paths.TRAIN / plain.name / name, folder / "alone" / listed.name / name
        assert found.read_bytes() == expected.read_bytes()


def test_further_rates_train_together_where_that_of_all_is_searched(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_together.run(at("auto"), (VARIANTS[1], Variant(2, "corpus", 0, learning_rate=1e-3)))
    assert "one after another" not in capsys.readouterr().out
    assert_as_alone(folder, VARIANTS[1])
