"""Layers' keys and values move as `train.optimizer` and its rates say, and resume as they were."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Params
from pipeline.config.train import TrainParams
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, random_kv_prefix
from pipeline.prefix.parameters.blocks import blocks_of
from pipeline.prefix.parameters.encoder import FlatEncoder
from pipeline.prefix.parameters.flat import flatten, unflatten
from pipeline.sweep.variants import Variant
from pipeline.tracking.runs import variant_params
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.optimizer import build_optimizer
from pipeline.training.rates import state_rate
from tests.conftest import kv_of, tiny_model, tiny_params
from tests.faults.test_kills import CutOffError, same, train
from tests.hybrids import qwen3_next
from tests.prefix.encoders import build

RATE = 1e-2


def started(scale: float = 0.5, **config: Any) -> PrefixModel:
    """A model whose prefix of 3 virtual tokens starts from noise."""
    model = PrefixModel(tiny_model(), PrefixConfig(3, **config))
    draw = torch.Generator().manual_seed(0)
    model.load_kv_prefix(random_kv_prefix(model.kv_shapes, 3, scale, draw))
    return model


def trained(model: PrefixModel) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def draws(model: PrefixModel, steps: int) -> list[list[torch.Tensor]]:
    """Gradients of each step, whatever the parameters are."""
    draw = torch.Generator().manual_seed(1)
    return [[torch.randn(p.shape, generator=draw) for p in trained(model)] for _ in range(steps)]


def stepped(model: PrefixModel, gradients: Sequence[Sequence[torch.Tensor]], **train: Any) -> None:
    """Take a step with each of the gradients, at a constant rate."""
    settings = {"learning_rate": RATE, "schedule": "constant", **train}
    params = TrainParams(**settings)
    states, rate = model.state_parameters, state_rate(model, params)
    blocks = blocks_of(model.encoder)
    optimizer, schedule = build_optimizer(trained(model), params, 100, states, rate, blocks)
    assert schedule.get_last_lr()[0] == RATE
    for of_step in gradients:
        for parameter, gradient in zip(trained(model), of_step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        optimizer.zero_grad()
        assert all(parameter.grad is None for parameter in trained(model))


def moved(before: KVPrefix, after: KVPrefix) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each layer how far its keys and its values moved."""
    pairs = zip(before.keys, after.keys, before.values, after.values, strict=True)
    return [(k1 - k0, v1 - v0) for k0, k1, v0, v1 in pairs]


SHAPES = [((2, 4), (2, 6)), ((3, 8), (3, 2))]


def test_blocks_are_each_layers_keys_and_values() -> None:
    encoder = FlatEncoder(PrefixConfig(5, num_frozen_tokens=2), SHAPES, {})
    kv = unflatten(encoder.embedding.detach(), SHAPES)
    found = [block.within(encoder.embedding) for block in blocks_of(encoder)]
    assert [block.kind for block in blocks_of(encoder)] == ["keys", "values"] * 2
    for at, tensor in enumerate(t for pair in zip(kv.keys, kv.values, strict=True) for t in pair):
        assert torch.equal(found[at], tensor.transpose(0, 1).flatten(1))


def test_keys_at_another_rate() -> None:
    one, other = started(), started()
    start, gradients = kv_of(one), draws(one, 4)
    stepped(one, gradients)
    stepped(other, gradients, key_rate_factor=0.25)
    for (keys, values), (slower, alike) in zip(
        moved(start, kv_of(one)), moved(start, kv_of(other)), strict=True
    ):
        torch.testing.assert_close(slower, 0.25 * keys, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(alike, values, rtol=1e-4, atol=1e-7)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    scales=st.lists(st.sampled_from([0.0, 1e-3, 1.0, 30.0]), min_size=4, max_size=4),
    frozen=st.sampled_from([0, 1]),
)
def test_relative_rates_are_a_training_of_differences(scales: list[float], frozen: int) -> None:
    """AdamW at one rate on `delta` in `start + size * delta`; of zeros the size is 1."""
    model = started(num_frozen_tokens=frozen)
    kv = kv_of(model)
    layers = zip(kv.keys, kv.values, scales[:2], scales[2:], strict=True)
    scaled = [(key * k, value * v) for key, value, k, v in layers]
    model.load_kv_prefix(KVPrefix(*(tuple(own) for own in zip(*scaled, strict=True))))
    whole, gradients = flatten(kv_of(model)), draws(model, 3)
    start = whole[frozen:]
    delta = torch.nn.Parameter(torch.zeros_like(start))
    size = torch.ones(start.shape[1])
    for block in blocks_of(model.encoder):
        rms = float(block.within(start).square().mean().sqrt())
        block.within(size[None]).fill_(float(f"{rms:.2g}") or 1.0)
    adamw = torch.optim.AdamW([delta], lr=RATE, eps=1e-15, weight_decay=0.0)
    for (gradient,) in gradients:
        delta.grad = gradient * size
        adamw.step()
    stepped(model, gradients, relative_rates=True, optimizer={"type": "adamw", "eps": 1e-15})
    found = flatten(kv_of(model))
    torch.testing.assert_close(
        (found[frozen:] - start) / size, delta.detach(), rtol=1e-3, atol=1e-6
    )
    assert torch.equal(found[:frozen], whole[:frozen])


def test_muon_moves_each_layers_keys_and_values_by_an_orthogonal_matrix() -> None:
    model = started()
    start, gradients = kv_of(model), draws(model, 3)
    whole = flatten(start)
    blocks = blocks_of(model.encoder)
    apart = [torch.nn.Parameter(block.within(whole).clone()) for block in blocks]
    muon = torch.optim.Muon(apart, RATE, 0.1, 0.8, adjust_lr_fn="match_rms_adamw")
    for (gradient,) in gradients:
        for parameter, block in zip(apart, blocks, strict=True):
            parameter.grad = block.within(gradient).contiguous()
        muon.step()
    stepped(model, gradients, optimizer={"type": "muon", "momentum": 0.8}, weight_decay=0.1)
    found = flatten(kv_of(model))
    for parameter, block in zip(apart, blocks, strict=True):
        torch.testing.assert_close(block.within(found), parameter.detach(), rtol=1e-6, atol=1e-7)
    once = started()
    stepped(once, gradients[:1], optimizer={"type": "muon"})
    for block in blocks:
        step = block.within(flatten(kv_of(once)) - whole)
        singular = torch.linalg.svdvals(step) / (0.2 * RATE * max(step.shape) ** 0.5)
        assert ((singular > 0.5) & (singular < 1.5)).all()


def test_what_muon_does_not_take_goes_by_adamw() -> None:
    """States at their own rate, a head and an MLP's embedding and biases at AdamW's."""
    muon = {"type": "muon", "adamw_learning_rate": 3e-4}
    hybrid = PrefixModel(qwen3_next(), PrefixConfig(3))
    (states,) = hybrid.state_parameters
    classifier = PrefixModel(build("bert"), PrefixConfig(3, modules_to_save=("classifier",)))
    projected = started(prefix_projection=True, encoder_hidden_size=6)
    assert projected.encoder.embedding is not None
    others = {
        "states": (hybrid, [states], 2e-3),
        "head": (classifier, list(classifier.heads.parameters()), 3e-4),
        "embedding": (projected, [projected.encoder.embedding.weight], 3e-4),
        "bias": (projected, [projected.encoder.transform[0].bias], 3e-4),
    }
    for model, parameters, rate in others.values():
        before = [parameter.detach().clone() for parameter in parameters]
        gradients = [[torch.ones_like(parameter) for parameter in trained(model)]]
        stepped(model, gradients, optimizer=muon, state_learning_rate=2e-3)
        for parameter, old in zip(parameters, before, strict=True):
            torch.testing.assert_close(
                old - parameter, torch.full_like(old, rate), rtol=1e-2, atol=1e-7
            )


def test_states_follow_the_rate_of_adamw() -> None:
    model = PrefixModel(qwen3_next(), PrefixConfig(3))
    usual = state_rate(model, TrainParams(learning_rate=RATE))
    muon = {"type": "muon", "adamw_learning_rate": RATE}
    assert state_rate(model, TrainParams(learning_rate=1.0, optimizer=muon)) == usual


ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "other betas": ({}, {"optimizer": {"type": "adamw", "betas": [0.8, 0.9], "eps": 1e-6}}),
    "muon": ({"num_frozen_tokens": 1}, {"optimizer": {"type": "muon"}, "weight_decay": 0.1}),
    "muon of an MLP": (
        {"prefix_projection": True, "encoder_hidden_size": 8},
        {"optimizer": {"type": "muon", "nesterov": False}},
    ),
    "keys slower, relative": ({"layers": [1]}, {"key_rate_factor": 0.3, "relative_rates": True}),
    "a moving mean": ({"prefix_dropout": 0.3}, {"averaging": {"type": "ema", "decay": 0.7}}),
    "all of it": (
        {"prefix_dropout": 0.3},
        {
            "optimizer": {"type": "muon"},
            **{"key_rate_factor": 2.0, "relative_rates": True},
            "averaging": {"type": "tail", "start": 0.4},
        },
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_resumed_is_uninterrupted(row: str, tmp_path: Path) -> None:
    config, rows = ROWS[row]
    params = TrainParams(
        **{"epochs": None, "max_steps": 7, "batch_size": 2, "learning_rate": 0.02},
        **{"eval_every_steps": 2, "warmup_steps": 2, **rows},
    )
    whole = train(PrefixConfig(4, **config), params)
    assert not same(
        whole,
        train(
            PrefixConfig(4, **config),
            params.model_copy(
                update={name: TrainParams.model_fields[name].get_default() for name in rows}
            ),
        ),
    )
    folder = CheckpointFolder(tmp_path / "x", "digest", 1)
    for cut in (2, 5):
        with pytest.raises(CutOffError):
            train(PrefixConfig(4, **config), params, folder, cut_after=cut)
    assert same(train(PrefixConfig(4, **config), params, folder), whole)


def test_mlflow_is_told() -> None:
    raw = tiny_params(Path("model"))
    raw["train"] |= {"optimizer": {"type": "muon"}, "averaging": {"type": "ema"}}
    logged = variant_params(Params.model_validate(raw), Variant(2, "corpus", 0))
    assert logged["train.optimizer.type"] == "muon"
    assert logged["train.optimizer.momentum"] == 0.95
    assert logged["train.averaging.decay"] == 0.9
    assert logged["train.key_rate_factor"] == 1.0
    assert logged["train.relative_rates"] is False
