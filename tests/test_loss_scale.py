"""A float16 model trains with the gradients of float32, and resumes with the same bytes."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset

from pipeline.config.train import TrainParams
from pipeline.prefix import PrefixConfig, PrefixModel, kv_prefix_from_text
from pipeline.training import loss_scale
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.loop import train_prefix
from pipeline.training.loss_scale import LossScale
from pipeline.training.progress import TrainingResult
from pipeline.training.random_numbers import random_states, restore_random_states
from tests.conftest import CORPUS, tiny_model, tiny_tokenizer
from tests.faults.test_kills import CutOffError, same


def examples(count: int) -> Dataset:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 260, (count, 44), generator=draw).tolist()
    return Dataset.from_list([{"input_ids": row, "target_start": 4} for row in ids])


def train(
    dtype: torch.dtype,
    count: int = 8,
    folder: CheckpointFolder | None = None,
    cut_after: int | None = None,
    steps: int = 4,
) -> tuple[TrainingResult, PrefixModel]:
    def log_step(step: int, _: object) -> None:
        if step == cut_after:
            raise CutOffError

    model = PrefixModel(tiny_model().half().to(dtype), PrefixConfig(4, prefix_dropout=0.2))
    model.load_kv_prefix(kv_prefix_from_text(tiny_model(), tiny_tokenizer(), CORPUS, 4))
    params = TrainParams(
        epochs=None, max_steps=steps, batch_size=count, learning_rate=1e-3, max_grad_norm=None
    )
    data = examples(count)
    return train_prefix(model, data, data.select([0]), params, 0, log_step, folder), model


def gradient(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """The gradient of the first step, over 1,280 target tokens."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "zero_grad", lambda *_, **__: None)
        _, model = train(dtype, count=32, steps=1)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_small_gradients_do_not_vanish(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = gradient(torch.float32, monkeypatch)
    scaled = gradient(torch.float16, monkeypatch)
    assert scaled.dtype == torch.float32
    error = (scaled - exact).norm() / exact.norm()
    monkeypatch.setattr(loss_scale, "_START", 1.0)
    unscaled = gradient(torch.float16, monkeypatch)
    assert error < 3e-3
    assert (unscaled - exact).norm() / exact.norm() > 3 * error


def test_a_step_that_overflows_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same draws of dropout: the scale it began with leaves no trace."""
    usual, _ = train(torch.float16)
    monkeypatch.setattr(loss_scale, "_START", 2.0**32)
    other, _ = train(torch.float16)
    assert [row["step"] for row in other.history] == [row["step"] for row in usual.history]
    for one, two in zip(usual.history[1:], other.history[1:], strict=True):
        assert one["train/loss"] == pytest.approx(two["train/loss"], rel=1e-3)
        assert one["train/gradient_norm"] == pytest.approx(two["train/gradient_norm"], rel=1e-2)


@pytest.mark.parametrize("start", [2.0**16, 2.0**32])
def test_a_cut_training_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: float
) -> None:
    monkeypatch.setattr(loss_scale, "_START", start)
    monkeypatch.setattr(loss_scale, "_STEPS_BEFORE_GROWTH", 2)
    whole, _ = train(torch.float16)
    folder = CheckpointFolder(tmp_path / "x", "digest", 1)
    for cut in (1, 3):
        with pytest.raises(CutOffError):
            train(torch.float16, folder=folder, cut_after=cut)
    assert same(train(torch.float16, folder=folder)[0], whole)


def test_the_scale_falls_and_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "_STEPS_BEFORE_GROWTH", 3)
    parameter = torch.nn.Parameter(torch.zeros(2))
    scale = LossScale.of(tiny_model().half())
    assert scale.value == 2.0**16
    parameter.grad = torch.tensor([2.0**16, float("inf")])
    assert not scale.settle(1.0, [parameter])
    assert scale.value == 2.0**15
    for _ in range(3):
        parameter.grad = torch.tensor([2.0**15, 1.0])
        assert scale.settle(1.0, [parameter])
        assert parameter.grad.tolist() == [1.0, 2.0**-15]
    assert scale.value == 2.0**16


def test_random_states_go_back_to_their_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several GPUs each has its own."""
    asked = []
    monkeypatch.setattr("torch.cuda.get_rng_state", lambda device: torch.tensor([device.index]))
    monkeypatch.setattr("torch.cuda.set_rng_state", lambda state, device: asked.append(device))
    device = torch.device("cuda:1")
    restore_random_states(random_states(device), device)
    assert asked == [device]


def test_other_models_are_not_scaled() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        scale = LossScale.of(tiny_model().to(dtype))
        assert (scale.value, scale.is_dynamic) == (1.0, False)


def test_no_scale_mends_a_loss_that_is_no_number() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([float("nan")])
    assert LossScale.of(tiny_model().half()).settle(float("nan"), [parameter])
