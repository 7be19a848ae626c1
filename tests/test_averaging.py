"""What is validated and kept is the mean of the weights, and the training goes on without it."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from pipeline.config.train import TrainParams
from pipeline.prefix import PrefixConfig, PrefixModel, kv_prefix_from_text
from pipeline.prefix.parameters.flat import flatten
from pipeline.training.loop import train_prefix
from pipeline.training.progress import TrainingResult
from pipeline.training.trained import TrainedWeights
from pipeline.training.validation import target_loss_of
from tests.conftest import CORPUS, tiny_model, tiny_tokenizer
from tests.faults.test_kills import examples

STEPS = 6


def trained(
    averaging: dict[str, Any] | None, prefixed: bool = True, **train: Any
) -> tuple[TrainingResult, list[torch.Tensor], PrefixModel]:
    """A training, what its weights were after each step, flat, and its model."""
    model = PrefixModel(tiny_model(), PrefixConfig(4) if prefixed else None)
    if prefixed:
        kv = kv_prefix_from_text(tiny_model(), tiny_tokenizer(), CORPUS, 4)
        model.load_kv_prefix(kv)
    passed: list[torch.Tensor] = []

    def log_step(step: int, _: Mapping[str, float]) -> None:
        if step:
            own = [p.detach().flatten() for p in model.parameters() if p.requires_grad]
            passed.append(torch.cat(own))

    settings: dict[str, Any] = {"epochs": None, "max_steps": STEPS, "batch_size": 2}
    settings |= {
        "learning_rate": 0.02,
        "schedule": "constant",
        "eval_every_steps": 1,
        "averaging": averaging,
    }
    params = TrainParams(**settings | train)
    result = train_prefix(model, examples(), examples(), params, 3, log_step)
    return result, passed, model


def kept(result: TrainingResult) -> torch.Tensor:
    if isinstance(result.prefix, TrainedWeights):
        return torch.cat([tensor.flatten() for tensor in result.prefix.tensors.values()])
    return flatten(result.prefix).flatten()


def mean_of(passed: list[torch.Tensor], averaging: dict[str, Any]) -> torch.Tensor:
    """The mean after the last of some steps, by the formulas of docs/optimizers.md."""
    if averaging["type"] == "tail":
        counted = passed[int(averaging["start"] * STEPS) :]
        return torch.stack(counted).mean(0) if counted else passed[-1]
    mean = passed[0]
    for weights in passed[1:]:
        mean = averaging["decay"] * mean + (1 - averaging["decay"]) * weights
    return mean


@pytest.mark.parametrize("prefixed", [True, False])
@pytest.mark.parametrize(
    "averaging", [{"type": "ema", "decay": 0.6}, {"type": "tail", "start": 0.4}]
)
def test_the_mean_is_kept_and_the_training_is_as_without(
    averaging: dict[str, Any], prefixed: bool
) -> None:
    plain, without, _ = trained(None, prefixed)
    result, passed, model = trained(averaging, prefixed)
    assert all(map(torch.equal, passed, without))
    for row, other in zip(result.history[1:], plain.history[1:], strict=True):
        assert row["train/loss"] == other["train/loss"]
    assert result.best_step > 2
    expected = mean_of(passed[: result.best_step], averaging)
    torch.testing.assert_close(kept(result), expected, rtol=1e-5, atol=1e-6)
    if isinstance(result.prefix, TrainedWeights):
        result.prefix.restore(model)
    else:
        model.load_kv_prefix(result.prefix)
    loss = target_loss_of(model.eval(), examples(), 4096)
    assert loss == pytest.approx(result.best_loss, rel=1e-6)
    assert loss != plain.best_loss


def test_before_a_tail_begins_the_weights_are_validated() -> None:
    plain, _, _ = trained(None)
    result, _, _ = trained({"type": "tail", "start": 0.5})
    ours, theirs = ([row["validation/loss"] for row in each.history] for each in (result, plain))
    # The first that is counted is a mean of one.
    assert ours[: STEPS // 2 + 2] == theirs[: STEPS // 2 + 2]
    assert ours[STEPS // 2 + 2] != theirs[STEPS // 2 + 2]


def test_patience_is_with_the_mean() -> None:
    """At so high a rate the weights stop getting better before their mean does."""
    how: dict[str, Any] = {"early_stopping_patience": 1, "learning_rate": 50.0}
    plain, _, _ = trained(None, **how)
    result, _, _ = trained({"type": "ema", "decay": 0.9}, **how)
    assert plain.stopped_early
    assert result.step == STEPS
