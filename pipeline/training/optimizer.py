"""AdamW and its learning-rate schedule."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipeline.config.training import TrainParams

if TYPE_CHECKING:
    import torch


def planned_steps(params: TrainParams, examples: int) -> int:
    """Optimizer steps of a whole training (at least one)."""
    if params.max_steps is not None:
        return params.max_steps
    assert params.epochs is not None, "the schema asks for one of epochs and max_steps"
    per_step = params.batch_size * params.gradient_accumulation_steps
    return max(1, math.ceil(params.epochs * examples / per_step))


def build_optimizer(
    parameters: Iterable["torch.nn.Parameter"], params: TrainParams, steps: int
) -> tuple["torch.optim.Optimizer", "torch.optim.lr_scheduler.LRScheduler"]:
    """AdamW (betas 0.9 and 0.999, epsilon 1e-8) with transformers' schedule of that name."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.AdamW(
        parameters, lr=params.learning_rate, weight_decay=params.weight_decay, fused=True
    )
    schedule = get_scheduler(
        # transformers calls a constant rate after a warm-up by another name.
        "constant_with_warmup" if params.schedule == "constant" else params.schedule,
        optimizer,
        num_warmup_steps=params.warmup_steps,
        num_training_steps=steps,
    )
    return optimizer, schedule
