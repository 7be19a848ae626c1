"""Layers' keys and values move as `train.optimizer` and its rates say, and resume as they were."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Mamba2Config

from pipeline.config import Params
from pipeline.config.optimizer import MuonOptimizer
from pipeline.config.train import TrainParams
from pipeline.errors import PipelineError
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel, random_kv_prefix
from pipeline.prefix.parameters.encoder import FlatEncoder
from pipeline.prefix.parameters.flat import Shapes, flatten, unflatten
from pipeline.preflight.kinds import check_kinds
from pipeline.sweep.variants import Variant
from pipeline.tracking.runs import variant_params
from pipeline.training.blocks import blocks_of
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.muon import orthogonal
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


def stepped(model: PrefixModel, gradients: list[list[torch.Tensor]], **train: Any) -> None:
    """Take a step with each of the gradients, at a constant rate."""
    settings: dict[str, Any] = {"learning_rate": RATE, "schedule": "constant"}
    params = TrainParams(**settings | train)
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


SHAPES: Shapes = [((2, 4), (2, 6)), ((3, 8), (3, 2))]


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
    keys = tuple(key * k for key, k in zip(kv.keys, scales[:2], strict=True))
    values = tuple(value * v for value, v in zip(kv.values, scales[2:], strict=True))
    model.load_kv_prefix(KVPrefix(keys, values))
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
    """As torch's does over matrices of their own, which rounds to bfloat16 on the way."""
    model = started()
    whole, gradients = flatten(kv_of(model)), draws(model, 3)
    blocks = blocks_of(model.encoder)
    for nesterov in (True, False):
        apart = [torch.nn.Parameter(block.within(whole).clone()) for block in blocks]
        how: dict[str, Any] = {"adjust_lr_fn": "match_rms_adamw", "nesterov": nesterov}
        theirs = torch.optim.Muon(apart, RATE, weight_decay=0.1, momentum=0.8, **how)
        for (gradient,) in gradients:
            for parameter, block in zip(apart, blocks, strict=True):
                parameter.grad = block.within(gradient).contiguous()
            theirs.step()
        own = started()
        muon = {"type": "muon", "momentum": 0.8, "nesterov": nesterov}
        stepped(own, gradients, optimizer=muon, weight_decay=0.1)
        for parameter, block in zip(apart, blocks, strict=True):
            step = block.within(flatten(kv_of(own)) - whole)
            error = step - (parameter.detach() - block.within(whole))
            assert error.norm() < 0.03 * step.norm()
    stepped(model, gradients[:1], optimizer={"type": "muon"})
    for block in blocks:
        step = block.within(flatten(kv_of(model)) - whole)
        singular = torch.linalg.svdvals(step) / (0.2 * RATE * max(step.shape) ** 0.5)
        assert ((singular > 0.6) & (singular < 1.3)).all()


@pytest.mark.parametrize("shape", [(16, 192), (64, 24), (1, 8)])
def test_a_step_of_muon_depends_on_no_last_digit(shape: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    # As ill-conditioned as gradients are.
    gradient = torch.randn(shape, generator=draw) * torch.logspace(0, -2, shape[1])
    other = gradient + 1e-7 * gradient.abs().max() * torch.randn(shape, generator=draw)
    coefficients = torch.optim.Muon([torch.zeros(2, 2)]).defaults["ns_coefficients"]
    one, two = (orthogonal(matrix, coefficients, 5) for matrix in (gradient, other))
    assert (one - two).abs().max() < 1e-4 * one.abs().max()
    assert torch.equal(orthogonal(0 * gradient, coefficients, 5), 0 * gradient)


def test_what_muon_does_not_take_goes_by_adamw() -> None:
    """States at their own rate, a head and an MLP's embedding and biases at AdamW's."""
    muon = {"type": "muon", "adamw_learning_rate": 3e-4}
    hybrid = PrefixModel(qwen3_next(), PrefixConfig(3))
    (states,) = hybrid.state_parameters
    classifier = PrefixModel(build("bert"), PrefixConfig(3, modules_to_save=("classifier",)))
    projected = started(prefix_projection=True, encoder_hidden_size=6)
    of_mlp = dict(projected.encoder.named_parameters())
    others = [
        (hybrid, [states], 2e-3),
        (classifier, list(classifier.heads.parameters()), 3e-4),
        (projected, [of_mlp["embedding.weight"], of_mlp["transform.0.bias"]], 3e-4),
    ]
    for model, parameters, rate in others:
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
    muon = MuonOptimizer(type="muon", adamw_learning_rate=RATE)
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
    settings: dict[str, Any] = {
        "epochs": None,
        "max_steps": 7,
        "batch_size": 2,
        "learning_rate": 0.02,
    }
    settings |= {"eval_every_steps": 2, "warmup_steps": 2}
    prefix, params = PrefixConfig(4, **config), TrainParams(**settings | rows)
    whole = train(prefix, params)
    assert not same(whole, train(prefix, TrainParams(**settings)))
    folder = CheckpointFolder(tmp_path / "x", "digest", 1)
    for cut in (2, 5):
        with pytest.raises(CutOffError):
            train(prefix, params, folder, cut_after=cut)
    resumed = train(prefix, params, folder)
    # First what names the step from which they part.
    assert resumed.history == whole.history
    assert same(resumed, whole)


def test_a_model_that_attends_nowhere_is_told(tmp_path: Path) -> None:
    Mamba2Config(num_hidden_layers=1).save_pretrained(tmp_path)
    raw = tiny_params(tmp_path)
    of_blocks = "is of keys and values, but no layer of this model attends; set it to"
    of_tokens = "is of virtual tokens, but no layer of this model attends to any; set it to"
    idle = "nothing trains, since no layer of this model attends, and train.state_learning_rate is "
    own_rate = {"state_learning_rate": 0.01}
    beside_lora = {"type": "prefix_and_lora", "initialization": "random", "length": 2}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"train": {"optimizer": {"type": "muon"}}}, f"train.optimizer.type: muon {of_blocks}"),
        ({"train": {"relative_rates": True}}, f"train.relative_rates: true {of_blocks} false"),
        ({"prefix": {"prefix_dropout": 0.1}}, f"prefix.prefix_dropout: 0.1 {of_tokens} 0"),
        ({"prefix": {"token_dropout": 0.1}}, f"prefix.token_dropout: 0.1 {of_tokens} 0"),
        ({"prefix": {"prefix_projection": True}}, f"prefix.prefix_projection: true {of_tokens}"),
        (
            {"prefix": {"prefix_always_visible": True}},
            f"prefix.prefix_always_visible: true {of_tokens} false",
        ),
        (
            {"train": {**own_rate, "learning_rate": "auto"}},
            f"train.learning_rate: auto searches a rate at which {idle}theirs; set that to null, "
            "which follows the search",
        ),
        (
            {"train": own_rate, "sweep": {"learning_rates": [0.5]}},
            f"sweep.learning_rates: [0.5] are rates at which {idle}theirs; set that to null, which "
            "follows each rate",
        ),
        (
            {"trained_baselines": {"both": beside_lora}},
            "trained_baselines.both: prefix_and_lora trains keys and values, but no layer of this "
            "model attends; leave it out",
        ),
    ]
    for changes, expected in wrong:
        sections = {name: {**raw[name], **own} for name, own in changes.items()}
        params = Params.model_validate({**raw, **sections})
        with pytest.raises(PipelineError, match=f"^{re.escape(expected)}"):
            check_kinds(params, tmp_path)
    check_kinds(Params.model_validate(raw), tmp_path)


def test_mlflow_is_told() -> None:
    raw = tiny_params(Path("model"))
    raw["train"] |= {"optimizer": {"type": "muon"}, "averaging": {"type": "ema"}}
    logged = variant_params(Params.model_validate(raw), Variant(2, "corpus", 0))
    assert logged["train.optimizer.type"] == "muon"
    assert logged["train.optimizer.momentum"] == 0.95
    assert logged["train.averaging.decay"] == 0.9
    assert logged["train.key_rate_factor"] == 1.0
    assert logged["train.relative_rates"] is False
