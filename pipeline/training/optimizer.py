"""The optimizer and its learning-rate schedule."""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch

from pipeline.config.train import TrainParams
from pipeline.training.block_optimizer import optimizer_of_blocks
from pipeline.training.blocks import Block

Apart = tuple[Sequence[torch.nn.Parameter], float]
"""Parameters with a peak rate of their own, and that rate."""


def planned_examples(params: TrainParams, examples: int) -> int | None:
    """Examples that `epochs` passes over `examples` meet (at least one); None for `max_steps`."""
    if params.max_steps is not None:
        return None
    assert params.epochs is not None, "the schema asks for one of epochs and max_steps"
    return max(1, round(params.epochs * examples))


def planned_steps(params: TrainParams, examples: int) -> int:
    """Optimizer steps of a whole training.

    Each pass ends with a step of what is left of it, as in transformers' `Trainer`, and so does
    the part of a pass that a fraction of `epochs` asks for.
    """
    seen = planned_examples(params, examples)
    if seen is None:
        assert params.max_steps is not None, "the schema asks for one of epochs and max_steps"
        return params.max_steps
    passes, rest = divmod(seen, examples)
    per_step = examples_per_step(params)
    return passes * math.ceil(examples / per_step) + math.ceil(rest / per_step)


def examples_per_step(params: TrainParams) -> int:
    """The examples whose gradients one optimizer step adds up, unless a pass has fewer left."""
    return params.batch_size * params.gradient_accumulation_steps


def rate_share(step: int, schedule: str, warmup_steps: int, steps: int) -> float:
    """What the learning rate is multiplied by at a step, to the bit as transformers has it.

    Written out here because `transformers.get_scheduler` imports the trainer, and with it PEFT
    where that is installed: seconds that every training would wait.
    """
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return max(0.0, (steps - step) / max(1, steps - warmup_steps))
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def build_optimizer(
    parameters: Iterable[torch.nn.Parameter],
    params: TrainParams,
    steps: int,
    states: Sequence[torch.nn.Parameter] = (),
    state_rate: float | None = None,
    blocks: Sequence[Block] = (),
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The optimizer that params name, with the schedule that they name.

    `states` are those of the parameters whose rate is `state_rate`: initial states, or what else
    has a rate of its own. `blocks` are the matrices among the rest that Muon takes, and that have
    rates of their own; AdamW takes what is in none of them.
    """
    moved = list(blocks) if params.moves_blocks else []
    optimizer: torch.optim.Optimizer
    if moved:
        within = {id(block.parameter) for block in moved}
        others = [parameter for parameter in parameters if id(parameter) not in within]
        groups = _groups(others, params.adamw_rate, states, state_rate)
        optimizer = optimizer_of_blocks(params, moved, groups)
    else:
        how = params.optimizer
        optimizer = torch.optim.AdamW(
            _groups(list(parameters), params.adamw_rate, states, state_rate),
            betas=(how.betas[0], how.betas[1]),
            eps=how.eps,
            weight_decay=params.weight_decay,
            fused=True,
        )
    share = partial(
        rate_share, schedule=params.schedule, warmup_steps=params.warmup_steps, steps=steps
    )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def _groups(
    parameters: list[torch.nn.Parameter],
    rate: float,
    states: Sequence[torch.nn.Parameter],
    state_rate: float | None,
) -> list[dict[str, Any]]:
    """The parameters by their rates; the first group's is the one that a history tells."""
    apart = {id(parameter) for parameter in states} if state_rate is not None else set()
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if id(p) not in apart], "lr": rate},
        {"params": [p for p in parameters if id(p) in apart], "lr": state_rate},
    ]
    return [group for group in groups if group["params"]]
