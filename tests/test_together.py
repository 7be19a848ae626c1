"""Variants that train together end as each does alone, whatever becomes of the others."""

import functools
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from datasets import Dataset
from transformers import PreTrainedModel

from benchmarks.together import main as benchmark
from pipeline.config.train import TrainParams
from pipeline.errors import DivergedError, PipelineError, StoppedError
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, random_kv_prefix
from pipeline.training import loss_scale, together
from pipeline.training.checkpoint import BEST, CheckpointFolder
from pipeline.training.loop import train_prefix
from pipeline.training.progress import TrainingResult
from pipeline.training.step import Step
from pipeline.training.together import train_all
from pipeline.training.training import Training
from tests.conftest import tiny_model
from tests.prefix.encoders import build

# Of keys and values around 1, which move by some thousandths.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Spec:
    """One variant."""

    length: int
    seed: int
    train_size: int = 9
    prefix: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)

    def model(self, frozen: PreTrainedModel) -> PrefixModel:
        # An MLP is drawn where it is made.
        torch.manual_seed(self.seed)
        model = PrefixModel(frozen, PrefixConfig(self.length, **self.prefix))
        draw = torch.Generator().manual_seed(self.seed)
        model.load_kv_prefix(random_kv_prefix(model.kv_shapes, self.length, 0.5, draw))
        return model

    @property
    def params(self) -> TrainParams:
        settings = {"max_steps": 6, "epochs": None, "batch_size": 2, "learning_rate": 1e-3}
        return TrainParams(**settings | {"eval_every_steps": 2} | self.train)

    @property
    def examples(self) -> Dataset:
        return examples(self.train_size)


def examples(count: int, source: int = 3) -> Dataset:
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(4, 120, (source + 3 + 2 * i,), generator=draw) for i in range(count)]
    return Dataset.from_list([{"input_ids": ids.tolist(), "target_start": source} for ids in rows])


ALL = (
    Spec(3, 0),
    Spec(8, 1, prefix={"prefix_dropout": 0.3}),
    Spec(5, 2, 4, {"prefix_dropout": 0.3, "prefix_projection": True, "encoder_hidden_size": 6}),
    Spec(3, 3, train={"max_steps": 3, "gradient_accumulation_steps": 2, "weight_decay": 0.1}),
    # It does not get better, and is stopped after its first validation.
    Spec(1, 4, train={"learning_rate": 1e-30, "early_stopping_patience": 1}),
    Spec(4, 5, prefix={"layers": (1,)}),
)


def alone(
    spec: Spec,
    frozen: PreTrainedModel | None = None,
    checkpoints: CheckpointFolder | None = None,
) -> TrainingResult:
    model = spec.model(tiny_model() if frozen is None else frozen)
    data = spec.examples
    params, seed = spec.params, spec.seed
    return train_prefix(model, data, examples(3), params, seed, lambda *_: None, checkpoints)


@functools.cache
def expected_of(index: int) -> TrainingResult:
    """What one of ALL comes to, trained alone and once for all tests."""
    return alone(ALL[index])


def all_of(
    specs: Sequence[Spec],
    folders: Sequence[CheckpointFolder | None] | None = None,
    frozen: PreTrainedModel | None = None,
    log_step: Any = lambda *_: None,
    **how: Any,
) -> tuple[list[TrainingResult], list[PipelineError | None]]:
    """What each training comes to, and what ended it."""
    frozen = tiny_model() if frozen is None else frozen
    trainings = [
        Training(
            *(spec.model(frozen), spec.examples, examples(3), spec.params, spec.seed, log_step),
            folder,
        )
        for spec, folder in zip(specs, folders or [None] * len(specs), strict=True)
    ]
    ends: dict[int, PipelineError | None] = {}

    def ended(training: Training, error: PipelineError | None) -> None:
        assert trainings.index(training) not in ends
        ends[trainings.index(training)] = error

    train_all(trainings, ended, **how)
    return [training.result for training in trainings], [ends[i] for i in range(len(specs))]


def assert_alike(found: TrainingResult, expected: TrainingResult) -> None:
    assert isinstance(found.prefix, KVPrefix)
    assert isinstance(expected.prefix, KVPrefix)
    assert found.best_step == expected.best_step
    assert found.stopped_early == expected.stopped_early
    assert len(found.history) == len(expected.history)
    for row, other in zip(found.history, expected.history, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-6)
    ours, theirs = (
        (*result.prefix.keys, *result.prefix.values)  # type: ignore[union-attr]
        for result in (found, expected)
    )
    for tensor, other_tensor in zip(ours, theirs, strict=True):
        assert (tensor - other_tensor).abs().max() < TOLERANCE


def test_each_has_its_own_optimizer_and_mean() -> None:
    muon, tail = {"type": "muon"}, {"type": "tail", "start": 0.4}
    specs = (
        Spec(3, 0, train={"optimizer": muon, "averaging": tail}),
        Spec(8, 1, train={"relative_rates": True, "key_rate_factor": 0.5}),
    )
    results, errors = all_of(specs)
    assert errors == [None, None]
    for spec, result in zip(specs, results, strict=True):
        assert_alike(result, alone(spec))


@pytest.mark.parametrize("max_tokens", [25, 60, 4096])
def test_each_ends_as_it_does_alone(max_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of other lengths, seeds, sizes, encoders, steps and ends, one of them in padded batches."""
    rows: list[int] = []
    real = together.losses_together

    def noting(shares: Any) -> Any:
        rows.append(len(shares))
        return real(shares)

    monkeypatch.setattr(together, "losses_together", noting)
    results, errors = all_of(ALL, max_tokens=max_tokens)
    assert errors == [None] * len(ALL)
    for i, result in enumerate(results):
        assert_alike(result, expected_of(i))
    assert results[4].stopped_early
    assert [result.step for result in results] == [6, 6, 6, 3, 2, 6]
    # More room, longer rows: all five that are packed, while all are at it.
    assert max(rows) == {25: 2, 60: 3, 4096: 5}[max_tokens]


def test_one_that_diverges_leaves_the_others_alone(tmp_path: Path) -> None:
    bad = Spec(4, 7, train={"learning_rate": 3e38, "max_grad_norm": None})
    specs = (ALL[0], bad, ALL[1])
    folders = [CheckpointFolder(tmp_path / str(i), "digest", 2) for i in range(3)]
    results, errors = all_of(specs, folders)
    assert isinstance(errors[1], DivergedError)
    assert "train.learning_rate: at step" in str(errors[1])
    assert torch.isfinite(KVPrefix.load(folders[1].folder / BEST).keys[0]).all()
    assert errors[0] is errors[2] is None
    for i, own in ((0, 0), (2, 1)):
        assert_alike(results[i], expected_of(own))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_together_they_go_on_together_or_alone(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [CheckpointFolder(tmp_path / str(i), f"digest {i}", 100) for i in range(len(ALL))]

    sent: list[int] = []

    def log_step(step: int, _: Mapping[str, float]) -> None:
        if step == 4 and not sent:
            sent.append(step)
            os.kill(os.getpid(), number)

    _, errors = all_of(ALL, folders, log_step=log_step)
    # Two had come to their ends before.
    assert [type(error) for error in errors].count(StoppedError) == len(ALL) - 2
    assert errors[3] is errors[4] is None
    stopped = next(error for error in errors if isinstance(error, StoppedError))
    assert f"stopped by {number.name} after step 4 of 6; `dvc repro` goes on from there" in str(
        stopped
    )
    assert stopped.exit_code == 128 + number
    capsys.readouterr()
    some, others = (0, 1, 3), (2, 4, 5)
    for i in some:
        assert_alike(alone(ALL[i], checkpoints=folders[i]), expected_of(i))
    results, errors = all_of([ALL[i] for i in others], [folders[i] for i in others])
    assert errors == [None] * 3
    for i, result in zip(others, results, strict=True):
        assert_alike(result, expected_of(i))
    said = capsys.readouterr().out
    for step, count in (("4 of 6", 4), ("2 of 6", 1), ("3 of 3", 1)):
        assert said.count(f"going on after step {step}, from the checkpoint") == count


def test_begun_alone_they_go_on_together(tmp_path: Path) -> None:
    specs = ALL[:3]
    folders = [CheckpointFolder(tmp_path / str(i), "digest", 1) for i in range(3)]

    class CutOffError(Exception):
        pass

    def log_step(step: int, _: Mapping[str, float]) -> None:
        if step == 3:
            raise CutOffError

    with pytest.raises(CutOffError):
        all_of(specs[:1], folders[:1], log_step=log_step)
    results, errors = all_of(specs, folders)
    assert errors == [None] * 3
    for i, result in enumerate(results):
        assert_alike(result, expected_of(i))


def test_float16_gradients_that_overflow_are_computed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the variant that they are of alone, with the dropout that it had drawn."""
    monkeypatch.setattr(loss_scale, "_START", 2.0**30)
    again: list[int] = []
    real = Training.compute

    def noting(self: Training, step: Step) -> None:
        again.append(step.number)
        real(self, step)

    monkeypatch.setattr(Training, "compute", noting)
    frozen = tiny_model().half()
    specs = [Spec(length, length, prefix={"prefix_dropout": 0.3}) for length in (2, 6)]
    results, errors = all_of(specs, frozen=frozen)
    assert errors == [None, None]
    assert 1 in again
    for spec, result in zip(specs, results, strict=True):
        expected = alone(spec, frozen)
        # A prefix of other rounding, not of another dropout.
        losses = [row["train/loss"] for row in result.history[1:]]
        assert losses == pytest.approx([row["train/loss"] for row in expected.history[1:]], 1e-3)


def test_models_without_packed_rows_take_turns() -> None:
    """Every part of a step is padded, so none is shared; the encoder-decoder has no such row."""
    frozen = build("t5")
    specs = [Spec(2, 0), Spec(4, 1)]
    results, errors = all_of(specs, frozen=frozen)
    assert errors == [None, None]
    for spec, result in zip(specs, results, strict=True):
        assert_alike(result, alone(spec, build("t5")))


def test_the_benchmark_runs_in_miniature() -> None:
    arguments = ["--small", "--variants", "2", "--batches", "1", "--rounds", "1"]
    shown = CliRunner().invoke(benchmark, [*arguments, "--device", "cpu"])
    assert shown.exit_code == 0, shown.output
    assert "|       1 |" in shown.output
    assert "2 together cost, times one" in shown.output
    for wrong in (["--batches", "1,x"], ["--variants", "0"]):
        told = CliRunner().invoke(benchmark, wrong)
        assert told.exit_code == 2
        assert "Traceback" not in told.output
