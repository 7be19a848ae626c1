"""Examples of several prefixes in one packed row give what each gives alone, gradients too."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import PreTrainedModel

from pipeline.prefix import (
    PrefixConfig,
    PrefixError,
    PrefixModel,
    packed_logits_together,
    random_kv_prefix,
)
from pipeline.prefix.packed.masks import NotPackableError
from tests.conftest import tiny_model
from tests.prefix.architectures import build
from tests.prefix.test_reach import dynamic

FROZEN = tiny_model(num_hidden_layers=3)


def prefixed(frozen: PreTrainedModel, p: int, seed: int, **settings: Any) -> PrefixModel:
    model = PrefixModel(frozen, PrefixConfig(p, **settings))
    draw = torch.Generator().manual_seed(seed)
    model.load_kv_prefix(random_kv_prefix(model.kv_shapes, p, 1.0, draw))
    if settings:
        # An MLP that yields nothing has no gradient but in its last layer.
        with torch.no_grad():
            for parameter in model.encoder.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return model.train()


def row_of(lengths: list[list[int]], seed: int, most: int = 260) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(4, most, (sum(map(sum, lengths)),), generator=draw)


def gradients(models: list[PrefixModel], loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [p for m in models for p in m.encoder.parameters()]))


def assert_as_alone(
    models: list[PrefixModel], lengths: list[list[int]], ids: torch.Tensor, tolerance: float
) -> None:
    keep = torch.arange(len(ids))
    joint = packed_logits_together(models, ids, lengths, keep)
    parts = ids.split([sum(own) for own in lengths])
    alone = torch.cat(
        [
            model.packed_logits(part, own, torch.arange(len(part)))
            for model, part, own in zip(models, parts, lengths, strict=True)
        ]
    )
    assert (joint - alone).abs().max() < tolerance * alone.abs().max()
    targets = ids.roll(-1)
    found = gradients(models, F.cross_entropy(joint, targets, reduction="sum"))
    expected = gradients(models, F.cross_entropy(alone, targets, reduction="sum"))
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


variants = st.tuples(
    st.integers(1, 40),
    st.lists(st.integers(1, 30), min_size=1, max_size=4),
    st.sampled_from([{}, {"prefix_projection": True, "encoder_hidden_size": 6}]),
)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(variants, min_size=1, max_size=5), st.integers(0, 9))
def test_logits_and_gradients_are_those_of_each_alone(drawn: list[Any], seed: int) -> None:
    models = [prefixed(FROZEN, p, seed + i, **how) for i, (p, _, how) in enumerate(drawn)]
    lengths = [own for _, own, _ in drawn]
    assert_as_alone(models, lengths, row_of(lengths, seed), 1e-5)


@pytest.mark.parametrize("name", ["gpt2", "opt", "gemma3_text", "qwen3_moe", "phi3"])
def test_other_architectures(name: str) -> None:
    """Learned positions, windows, experts that see the tokens of all prefixes in one matrix."""
    frozen = build(name)
    models = [prefixed(frozen, p, p) for p in (2, 4, 3)]
    lengths = [[4, 2], [3], [1, 5]]
    assert_as_alone(models, lengths, row_of(lengths, 0, 60), 2e-5)


def test_layers_that_are_recomputed_find_each_prefix_again() -> None:
    frozen = tiny_model()
    models = [prefixed(frozen, p, p) for p in (3, 7)]
    lengths = [[5, 4], [6]]
    ids, keep = row_of(lengths, 1), torch.arange(15)
    kept = gradients(models, packed_logits_together(models, ids, lengths, keep).logsumexp(1).sum())
    models[0].gradient_checkpointing_enable()
    again = gradients(models, packed_logits_together(models, ids, lengths, keep).logsumexp(1).sum())
    assert all(
        torch.allclose(one, other, rtol=1e-5) for one, other in zip(kept, again, strict=True)
    )


def test_one_that_is_no_number_leaves_the_others_alone() -> None:
    models = [prefixed(FROZEN, p, p) for p in (3, 4)]
    lengths = [[5, 4], [6, 2]]
    ids, keep = row_of(lengths, 1), torch.arange(17)
    expected = packed_logits_together(models, ids, lengths, keep)[9:]
    with torch.no_grad():
        next(models[0].encoder.parameters()).fill_(float("nan"))
    found = packed_logits_together(models, ids, lengths, keep)
    assert found[:9].isnan().all()
    assert torch.equal(found[9:], expected)


def test_hidden_tokens_are_those_of_each_model() -> None:
    models = [prefixed(FROZEN, 4, seed) for seed in (1, 2)]
    lengths = [[5], [5]]
    ids, keep = row_of(lengths, 2), torch.arange(10)
    with models[1].without(tokens=[2]):
        found = packed_logits_together(models, ids, lengths, keep)
        alone = models[1].packed_logits(ids[5:], [5], torch.arange(5))
    assert torch.allclose(found[5:], alone, atol=1e-5)
    assert not torch.allclose(packed_logits_together(models, ids, lengths, keep), found, atol=1e-3)


def test_what_does_not_go_together_is_told() -> None:
    ids, keep = row_of([[2], [2]], 0), torch.arange(4)
    apart = [prefixed(tiny_model(), 2, 0), prefixed(tiny_model(), 2, 0)]
    with pytest.raises(PrefixError, match="different frozen models"):
        packed_logits_together(apart, ids, [[2], [2]], keep)
    mixed = [prefixed(FROZEN, 2, 0), prefixed(FROZEN, 2, 0).eval()]
    with pytest.raises(PrefixError, match="in training mode"):
        packed_logits_together(mixed, ids, [[2], [2]], keep)


def test_one_beyond_the_models_reach_is_told() -> None:
    """A rotary embedding that changes where the longest prefix alone is followed."""
    frozen = dynamic(24)
    models = [prefixed(frozen, p, p) for p in (2, 22)]
    ids = row_of([[3], [3]], 0, 60)
    with pytest.raises(NotPackableError, match="changes its rotary embedding beyond 24"):
        packed_logits_together(models, ids, [[3], [3]], torch.arange(6))
