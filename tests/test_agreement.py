"""Training here is PEFT's training: same start, order and seed give the same losses."""

import pytest
from transformers import LlamaForCausalLM

from benchmarks.agreement import training_losses
from benchmarks.examples import examples
from benchmarks.operations import needed_operations
from tests.conftest import tiny_model


def small_examples(count: int) -> list[dict[str, object]]:
    rows = examples(4 * count, vocabulary=260)
    return [row for row in rows if len(row["input_ids"]) < 60][:count]


# Heads of 8 go through torch's operators, heads of 16 through this project's kernel.
@pytest.mark.slow
@pytest.mark.parametrize("head_dim", [8, 16])
def test_losses_along_a_training_are_those_of_peft(head_dim: int) -> None:
    models = [tiny_model(head_dim=head_dim) for _ in range(2)]
    ours, theirs = training_losses(
        models[0], models[1], p=6, rows=small_examples(24), steps=100, batch=4
    )
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert sum(ours[-10:]) < sum(ours[:10])


def test_counted_operations_are_those_of_the_layers(model: LlamaForCausalLM) -> None:
    """One more token in the input costs its products with every weight, twice, and attention."""
    config = model.config
    row = {"input_ids": list(range(10)), "target_start": 4}
    longer = {"input_ids": list(range(11)), "target_start": 5}
    weights = sum(
        p.numel() for name, p in model.named_parameters() if "layers" in name and p.ndim == 2
    )
    added = needed_operations(config, [longer], 0) - needed_operations(config, [row], 0)
    first = sum(
        p.numel()
        for name, p in model.named_parameters()
        if "layers.0" in name and any(part in name for part in ("q_proj", "k_proj", "v_proj"))
    )
    attention = 2 * 11 * 32 * 2 * 6
    assert added == 2 * (2 * weights - first) + attention
