"""Packed rows whose layers are recomputed: the same gradients from less memory.

That each architecture's gradients are the same, `tests/prefix/test_dropout.py` shows.
"""

from typing import Any

import pytest
import torch

from benchmarks.checkpointing import kept_bytes
from pipeline.loss.causal import TargetLoss
from pipeline.prefix import PrefixConfig, PrefixModel
from tests.conftest import tiny_model

ROWS: list[dict[str, Any]] = [
    {"input_ids": list(range(4, 104)), "target_start": 60},
    {"input_ids": list(range(4, 44)), "target_start": 20},
]
TRAINED = {"a prefix": PrefixConfig(4), "every weight": None}


@pytest.mark.parametrize("name", TRAINED)
def test_recomputed_rows_keep_less_for_the_same_gradients(name: str) -> None:
    config = TRAINED[name]
    frozen = tiny_model(num_hidden_layers=8)
    model = PrefixModel(frozen.requires_grad_(config is None), config).train()
    found = []
    for recomputed in (False, True):
        if recomputed:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        kept = kept_bytes(model, ROWS)
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append((kept, gradients))
    (kept, wanted), (kept_less, gradients) = found
    assert len(gradients) == len(wanted) > 0
    for one, other in zip(gradients, wanted, strict=True):
        assert float((one - other).norm() / other.norm()) <= 1e-5
    assert kept_less < 0.25 * kept


def test_a_model_that_was_asked_itself_recomputes_its_own_attention() -> None:
    """transformers' own replay knows of no packed rows: then padded ones serve."""
    frozen = tiny_model().requires_grad_(True).train()
    model = PrefixModel(frozen)
    assert model.why_not_packed(tokens=8) is None
    frozen.activation_checkpointing_enable()
    reason = model.why_not_packed(tokens=8)
    assert reason == "layers recomputed in the backward pass find the model's own attention again"
    assert torch.isfinite(TargetLoss(model)(ROWS))
