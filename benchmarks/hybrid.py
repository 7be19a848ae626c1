"""`python -m benchmarks.hybrid`: what to train beside a frozen hybrid, keys and values or states.

Keys and values where it attends, initial states where it recurs, half of each, and PEFT's LoRA: as
many numbers are trained, for as many steps, on the same batches. The hybrid is tiny, trained here
until it solves its tasks, and then frozen (see `benchmarks.hybrid_letters`). Each way has the
learning rate that serves it best on validation with the first seed, and keeps it with the others.
"""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean, stdev
from typing import Any

import click
import torch
from tabulate import tabulate
from transformers import PreTrainedModel

from benchmarks.hybrid_letters import (
    Pair,
    by_length,
    demonstrations,
    drawn_batch,
    measured,
    trained_model,
)
from benchmarks.letters import SORT, TOLD, UNMARKED, Rule, examples
from pipeline.prefix import PrefixConfig, PrefixModel, kv_prefix_from_tokens

TASKS: dict[str, Rule] = {
    "sort, untold": TOLD[SORT],
    "sort downwards": lambda letters: sorted(letters, reverse=True),
}
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
P = 44
"""Keys and values of so many virtual tokens are as many numbers as all states together."""

Build = Callable[[PreTrainedModel, list[Pair]], Any]


def with_prefix(config: PrefixConfig, frozen: PreTrainedModel, pairs: list[Pair]) -> PrefixModel:
    """A prefix that starts as the model's own after p tokens of demonstrations."""
    model = PrefixModel(frozen, config)
    start = kv_prefix_from_tokens(frozen, demonstrations(pairs, config.num_virtual_tokens))
    model.load_kv_prefix(start.of_kinds(config.kinds or start.kinds))
    return model


def with_lora(frozen: PreTrainedModel, pairs: list[Pair]) -> Any:
    """PEFT's LoRA of rank 1 at every linear layer, which starts as the frozen model itself."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=1, lora_alpha=2, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(frozen, config)


WAYS: dict[str, Build] = {
    "keys and values": partial(with_prefix, PrefixConfig(P, kinds=("attention",))),
    "states": partial(with_prefix, PrefixConfig(P, kinds=("state",))),
    # The state of the first layer alone, and keys and values of both layers that attend.
    "half of each": partial(with_prefix, PrefixConfig(P // 2, layers=(0, 1, 3))),
    "LoRA": with_lora,
}


@dataclass(frozen=True)
class Extent:
    """How long and how often is trained, and on how many examples measured."""

    seeds: int = 3
    steps: int = 300
    batch: int = 16
    pretraining: int = 1500
    rates: tuple[float, ...] = RATES
    measured: int = 500


MINIATURE = Extent(seeds=2, steps=2, batch=4, pretraining=2, rates=(0.03, 0.1), measured=20)


@dataclass(frozen=True)
class Result:
    """A way on one task: how many numbers it trains, at what rate, and of each seed on test the
    loss (nats per target token) and the share of exact targets."""

    way: str
    parameters: int
    rate: float
    loss: tuple[float, ...]
    exact: tuple[float, ...]


def train(model: torch.nn.Module, pairs: list[Pair], seed: int, rate: float, of: Extent) -> None:
    """Train what takes a gradient by Adam, with a rate that falls to 0."""
    trained = trainable(model)
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=of.steps)
    groups, draw = by_length(pairs), random.Random(seed)
    for _ in range(of.steps):
        loss = model(**drawn_batch(groups, of.batch, draw), use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()


def trainable(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that take a gradient."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def adapted(
    frozen: PreTrainedModel, build: Build, rule: Rule, seed: int, rate: float, of: Extent
) -> Any:
    """A copy of the frozen model, adapted to a rule in one of the ways."""
    pairs = examples(UNMARKED, rule, 2_000, seed)
    torch.manual_seed(seed)
    # A copy, since PEFT puts LoRA's layers into the model that it is given.
    model = build(copy.deepcopy(frozen), pairs)
    train(model, pairs, seed, rate, of)
    return model


def result(frozen: PreTrainedModel, way: str, rule: Rule, of: Extent) -> Result:
    """A way with the rate of the lowest validation loss of seed 0, measured on test."""
    validation, test = (examples(UNMARKED, rule, of.measured, s) for s in (10_001, 10_002))
    tried = {rate: adapted(frozen, WAYS[way], rule, 0, rate, of) for rate in of.rates}
    best = min(tried, key=lambda rate: measured(tried[rate], validation)[0])
    others = (adapted(frozen, WAYS[way], rule, seed, best, of) for seed in range(1, of.seeds))
    models = [tried[best], *others]
    loss, exact = zip(*(measured(model, test) for model in models), strict=True)
    parameters = sum(parameter.numel() for parameter in trainable(models[0]))
    return Result(way, parameters, best, loss, exact)


def verdict(task: str, found: list[Result]) -> str:
    """Who has the lowest mean loss, and with how many seeds it is below every other way."""
    best = min(found, key=lambda row: mean(row.loss))
    seeds = list(zip(*(row.loss for row in found), strict=True))
    wins = sum(min(losses) == own for losses, own in zip(seeds, best.loss, strict=True))
    lowest = f"the lowest mean test loss is of {best.way}"
    return f"{task}: {lowest}, lowest on {wins} of {len(seeds)} seeds"


def spread(numbers: tuple[float, ...], form: str) -> str:
    """Mean and standard deviation over the seeds."""
    deviation = stdev(numbers) if len(numbers) > 1 else 0.0
    return f"{mean(numbers):{form}} ± {deviation:{form}}"


@click.command()
@click.option("--seeds", default=Extent.seeds, show_default=True, help="How many, from 0 on.")
@click.option("--steps", default=Extent.steps, show_default=True, help="Steps of each way.")
@click.option("--pretraining", default=Extent.pretraining, show_default=True, help="Of the model.")
@click.option("--small", is_flag=True, help="A miniature, which learns next to nothing.")
def main(seeds: int, steps: int, pretraining: int, small: bool) -> None:
    """Print test loss and exact matches of every way, mean and deviation over the seeds."""
    chosen = replace(Extent(), seeds=seeds, steps=steps, pretraining=pretraining)
    of = MINIATURE if small else chosen
    frozen = trained_model(of.pretraining)
    told = [measured(frozen, examples(mark, TOLD[mark], of.measured, 7))[1] for mark in TOLD]
    shares = ", ".join(f"{share:.1%}" for share in told)
    click.echo(f"the frozen model, told to copy, reverse, sort: {shares} exact")
    rows = []
    for task, rule in TASKS.items():
        loss, exact = measured(frozen, examples(UNMARKED, rule, of.measured, 10_002))
        rows.append([task, "nothing", 0, "", f"{loss:.3f}", f"{exact:.1%}"])
        found = [result(frozen, way, rule, of) for way in WAYS]
        for row in found:
            numbers = spread(row.loss, ".3f"), spread(row.exact, ".1%")
            rows.append([task, row.way, row.parameters, row.rate, *numbers])
        click.echo(verdict(task, found))
    headers = ["task", "trained", "parameters", "rate", "test loss", "exact"]
    click.echo(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
