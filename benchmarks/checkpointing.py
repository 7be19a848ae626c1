"""`python -m benchmarks.checkpointing`: packed rows with and without gradient checkpointing.

What a training step keeps for its backward pass is counted tensor by tensor, so that the numbers
are the same on every run; the speeds are of this machine.
"""

import time
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from benchmarks.examples import examples

LENGTH, BATCH = 16, 8


@click.command()
@click.option("--model", default="data/model", show_default=True, type=Path)
@click.option("--steps", default=3, show_default=True, help="Timed forward and backward passes.")
def main(model: Path, steps: int) -> None:
    """Print what one batch of 8 examples keeps, and its speed, in bfloat16."""
    if not (model / "config.json").exists():
        raise click.ClickException(f"there is no model in {model}; run `dvc repro fetch_model`")
    from pipeline.models.frozen import load_frozen_model
    from pipeline.prefix import PrefixConfig, PrefixModel
    from pipeline.schema.compute import Compute

    frozen = load_frozen_model(model, Compute(dtype="bfloat16"))
    prefixed = PrefixModel(frozen, PrefixConfig(LENGTH)).train()
    batch = examples(BATCH, frozen.config.vocab_size)
    tokens = sum(len(row["input_ids"]) for row in batch)
    rows = []
    for recomputed in (False, True):
        if recomputed:
            prefixed.gradient_checkpointing_enable()
        kept = kept_bytes(prefixed, batch)
        began = time.perf_counter()
        for _ in range(steps):
            _loss(prefixed, batch).backward()
        speed = tokens * steps / (time.perf_counter() - began)
        rows.append([str(recomputed).lower(), f"{kept / 2**20:.1f}", f"{speed:.0f}"])
    click.echo(f"packed rows of {tokens} tokens after a prefix of {LENGTH}:")
    headers = ("gradient_checkpointing", "MB kept for the backward pass", "tokens/s")
    click.echo(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))


def kept_bytes(model: Any, batch: list[dict[str, Any]]) -> int:
    """The bytes that autograd keeps of a packed batch's forward pass, the weights not counted."""
    import torch

    assert model.why_not_packed(tokens=max(len(row["input_ids"]) for row in batch)) is None
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # Alive while it is counted: freed storage would be given out again.
        loss = _loss(model, batch)
        found = sum(kept.values())
    loss.backward()
    return found


def _loss(model: Any, batch: list[dict[str, Any]]) -> Any:
    from pipeline.loss.causal import TargetLoss

    return TargetLoss(model)(batch, weight=1e-3)


if __name__ == "__main__":
    main()
