"""Both compute the same: a batch's loss and gradients, and the losses of a training."""

import random
from typing import Any

import torch


def check_agreement(folder: str, p: int = 16) -> str:
    """A sentence on how far loss and gradients of one batch are apart in float32.

    Raises RuntimeError when they are further apart than rounding explains.
    """
    from transformers import AutoModelForCausalLM

    from benchmarks.examples import examples

    frozen, other = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2)
    )
    rows = examples(8, frozen.config.vocab_size, seed=1)[:4]
    ours, theirs = both(frozen, other, p, rows)
    losses, gradients = [], []
    for system in (ours, theirs):
        loss = system.loss_of(rows)
        loss.backward()
        losses.append(loss.item())
        gradients.append(_gradient(system))
    apart = abs(losses[0] - losses[1]) / losses[1]
    most = gradients[1].abs().max()
    turned = float((gradients[0] - gradients[1]).abs().max() / most)
    if apart > 1e-4 or turned > 1e-3:
        raise RuntimeError(f"losses {losses} are {apart:.1e} apart, gradients {turned:.1e}")
    return f"same batch in float32: losses {apart:.0e} apart, gradients {turned:.0e} (relative)"


def training_losses(
    frozen: Any, other: Any, p: int, rows: list[dict[str, Any]], steps: int, batch: int
) -> tuple[list[float], list[float]]:
    """Losses of ours and of PEFT's along a training from one start, in one order."""
    results = []
    for system in both(frozen, other, p, rows):
        draw = random.Random(0)
        losses = []
        for _ in range(steps):
            system.optimizer.zero_grad()
            loss = system.loss_of(draw.sample(rows, batch))
            loss.backward()
            system.optimizer.step()
            losses.append(loss.item())
        results.append(losses)
    return results[0], results[1]


def both(frozen: Any, other: Any, p: int, rows: list[dict[str, Any]]) -> tuple[Any, Any]:
    """Our system and PEFT's on two copies of a model, started alike."""
    from benchmarks.systems import Ours, Peft
    from pipeline.prefix import kv_prefix_from_tokens

    draw = torch.Generator().manual_seed(0)
    text = torch.randint(100, frozen.config.vocab_size, (p,), generator=draw)
    start = kv_prefix_from_tokens(frozen, text)
    return Ours(frozen, p, rows, start), Peft(other, p, rows, start, grouped=False)


def _gradient(system: Any) -> torch.Tensor:
    model = system.model
    (parameter,) = [p for p in model.parameters() if p.requires_grad]
    return torch.as_tensor(parameter.grad)
