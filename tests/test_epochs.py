"""`epochs` is the number of times that a training meets each example, to the example."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from pipeline.baselines.full_fine_tuning import FullFineTuning
from pipeline.config.train import TrainParams
from pipeline.data.batching import training_order
from pipeline.data.subset import subset
from pipeline.loss.causal import TargetLoss
from pipeline.prefix import PrefixConfig, PrefixModel
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.loop import train_prefix
from pipeline.training.optimizer import examples_per_step, planned_examples, planned_steps
from tests.conftest import tiny_model
from tests.faults.test_kills import CutOffError, same, train


def rows_of(count: int) -> Dataset:
    """Examples whose first token says which they are."""
    return Dataset.from_list(
        [{"input_ids": [4 + i, 9, 9], "target_start": 2} for i in range(count)]
    )


@pytest.fixture
def met(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The examples of each call of the loss in training."""
    calls: list[list[int]] = []
    real = TargetLoss.__call__

    def noting(self: TargetLoss, examples: Sequence[Any], weight: float = 1.0) -> torch.Tensor:
        if torch.is_grad_enabled():
            calls.append([row["input_ids"][0] - 4 for row in examples])
        return real(self, examples, weight)

    monkeypatch.setattr(TargetLoss, "__call__", noting)
    return calls


CASES: dict[str, tuple[int, dict[str, Any], list[int], int]] = {
    # examples, settings, the size of each batch in a pass (or all), optimizer steps
    "50 by 8": (50, {"batch_size": 8, "epochs": 10}, [*[8] * 6, 2] * 10, 70),
    "12 by 8": (12, {"batch_size": 8, "epochs": 8}, [8, 4] * 8, 16),
    "9 by 8": (9, {"batch_size": 8, "epochs": 3}, [8, 1] * 3, 6),
    "3 by 8": (3, {"batch_size": 8, "epochs": 2}, [3, 3], 2),
    "accumulated": (
        *(50, {"batch_size": 8, "gradient_accumulation_steps": 3, "epochs": 2}),
        *([*[8] * 6, 2] * 2, 6),
    ),
    "half a pass": (50, {"batch_size": 8, "epochs": 0.5}, [8, 8, 8, 1], 4),
    "two and a half": (9, {"batch_size": 4, "epochs": 2.5}, [*[4, 4, 1] * 2, 4], 7),
    "a little of one": (9, {"batch_size": 4, "epochs": 0.01}, [1], 1),
    "steps": (9, {"batch_size": 4, "epochs": None, "max_steps": 5}, [4, 4, 1, 4, 4], 5),
}


@pytest.mark.parametrize("case", CASES)
def test_each_example_is_met_once_in_each_pass(case: str, met: list[list[int]]) -> None:
    count, settings, sizes, steps = CASES[case]
    params = TrainParams(**settings)
    data = rows_of(count)
    model = PrefixModel(tiny_model(), PrefixConfig(num_virtual_tokens=2))
    result = train_prefix(model, data, data, params, 1, lambda step, metrics: None)
    assert [len(batch) for batch in met] == sizes
    assert result.step == steps == planned_steps(params, count)
    times = Counter(index for batch in met for index in batch)
    if params.epochs is not None:
        assert sum(times.values()) == max(1, round(params.epochs * count))
    passes = sum(sizes) // count
    assert all(passes <= times[index] <= passes + 1 for index in range(count))


def test_a_trained_baseline_and_a_training_size_keep_to_it_too(met: list[list[int]]) -> None:
    baseline = FullFineTuning(type="full_fine_tuning", epochs=3, batch_size=2)
    params = baseline.training(TrainParams(batch_size=8))
    model = PrefixModel(tiny_model().requires_grad_(True))
    data = rows_of(9)
    chosen = subset(data, 5, 0)
    train_prefix(model, chosen, data, params, 1, lambda step, metrics: None)
    times = Counter(index for batch in met for index in batch)
    assert times == {ids[0] - 4: 3 for ids in chosen["input_ids"]}


@given(
    *(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4), st.floats(0.01, 5)),
)
def test_planned_steps_are_the_batches_of_the_order(
    examples: int, batch_size: int, accumulated: int, epochs: float
) -> None:
    params = TrainParams(
        batch_size=batch_size, gradient_accumulation_steps=accumulated, epochs=epochs
    )
    most = planned_examples(params, examples)
    order = list(training_order(examples, examples_per_step(params), 0, most))
    assert len(order) == planned_steps(params, examples)
    assert sum(map(len, order)) == most


@pytest.mark.parametrize(("warmup", "is_told"), [(3, True), (2, True), (1, False)])
def test_a_warm_up_as_long_as_the_training_is_told(
    warmup: int, is_told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one step, all would be at a rate of 0."""
    params = TrainParams(batch_size=4, warmup_steps=warmup)
    model = PrefixModel(tiny_model(), PrefixConfig(num_virtual_tokens=2))
    data = rows_of(7)
    result = train_prefix(model, data, data, params, 1, lambda step, metrics: None)
    rates = [row["train/learning_rate"] for row in result.history[1:]]
    assert (max(rates) < params.peak_rate) is is_told
    told = f"warning: warmup_steps: {warmup} is not below the 2 optimizer steps"
    assert (told in capsys.readouterr().out) is is_told


def test_a_training_of_short_batches_resumes_with_the_same_bytes(tmp_path: Path) -> None:
    """Its seven examples make steps of 4 and 3."""
    config = PrefixConfig(num_virtual_tokens=4, prefix_dropout=0.3)
    params = TrainParams(
        epochs=2.5, batch_size=2, gradient_accumulation_steps=2, eval_every_steps=2
    )
    whole = train(config, params)
    assert whole.step == 5
    folder = CheckpointFolder(tmp_path / "x", "digest", 1)
    for cut in (1, 2, 4):
        with pytest.raises(CutOffError):
            train(config, params, folder, cut_after=cut)
    assert same(train(config, params, folder), whole)
