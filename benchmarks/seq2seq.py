"""`python -m benchmarks.seq2seq`: the paper's prefix for an encoder-decoder against PEFT's.

Encoder, decoder and cross-attention with p virtual tokens each, against the decoder alone with 3p:
as many numbers are trained. On a tiny encoder-decoder that is trained here and then frozen (see
`benchmarks.letters`), each way with the learning rate that serves it best on validation.
"""

import random
from collections.abc import Callable
from typing import Any

import click
import torch
from tabulate import tabulate

from benchmarks.letters import (
    SORT,
    TOLD,
    UNMARKED,
    batch_of,
    exact_share,
    examples,
    trained_model,
)
from pipeline.prefix import PrefixConfig, PrefixModel, random_kv_prefix

Rule = Callable[[list[int]], list[int]]
TASKS: dict[str, Rule] = {
    "sort, untold": TOLD[SORT],
    "sort downwards": lambda letters: sorted(letters, reverse=True),
    "every letter twice": lambda letters: [letter for letter in letters for _ in range(2)],
}
WAYS: dict[str, tuple[tuple[str, ...], int]] = {
    "encoder, decoder, cross": (("encoder", "decoder", "cross"), 1),
    "decoder alone": (("decoder",), 3),
}
RATES = (0.01, 0.03, 0.1)


def train(
    frozen: Any, parts: tuple[str, ...], p: int, rule: Rule, seed: int, rate: float, steps: int
) -> PrefixModel:
    """A prefix trained for one thing to do, from small random numbers, with Adam."""
    model = PrefixModel(frozen, PrefixConfig(p, parts=parts))
    start = torch.Generator().manual_seed(seed)
    model.load_kv_prefix(random_kv_prefix(model.kv_shapes, p, 0.1, start))
    optimizer = torch.optim.AdamW(model.encoder.parameters(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    pairs = examples(UNMARKED, rule, 512, seed)
    draw = random.Random(seed)
    for _ in range(steps):
        loss = model(**batch_of(draw.sample(pairs, 32))).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model


def measured(model: PrefixModel, rule: Rule, seed: int) -> tuple[float, float]:
    """Loss (nats per target token) and the share of exact targets of 500 examples."""
    pairs = examples(UNMARKED, rule, 500, seed)
    with torch.inference_mode():
        loss = float(model(**batch_of(pairs)).loss)
    return loss, exact_share(model, pairs)


@click.command()
@click.option("--p", default=8, show_default=True, help="Virtual tokens of each of three parts.")
@click.option("--seeds", default=3, show_default=True, help="Seeds 0 to this.")
@click.option("--steps", default=300, show_default=True, help="Training steps of a prefix.")
@click.option("--pretraining", default=1200, show_default=True, help="Steps of the model itself.")
def main(p: int, seeds: int, steps: int, pretraining: int) -> None:
    """Print test loss and exact matches of both ways, for every task and seed."""
    frozen = trained_model(pretraining)
    shares = [f"{exact_share(frozen, examples(mark, TOLD[mark], 500, 7)):.1%}" for mark in TOLD]
    click.echo(f"the frozen model, told to copy, reverse, sort: {', '.join(shares)} exact")
    rows = []
    for task, rule in TASKS.items():
        wins = 0
        for seed in range(seeds):
            losses = {}
            for way, (parts, times) in WAYS.items():
                tried = [train(frozen, parts, times * p, rule, seed, r, steps) for r in RATES]
                best = min(range(len(RATES)), key=lambda i: measured(tried[i], rule, 10_001)[0])
                losses[way], exact = measured(tried[best], rule, 10_002)
                count = sum(q.numel() for q in tried[best].encoder.parameters())
                row = [task, seed, way, times * p, count, RATES[best]]
                rows.append([*row, f"{losses[way]:.4f}", f"{exact:.1%}"])
            wins += losses["encoder, decoder, cross"] < losses["decoder alone"]
        click.echo(f"{task}: the full prefix has the lower test loss on {wins} of {seeds} seeds")
    headers = ["task", "seed", "parts", "p", "parameters", "rate", "test loss", "exact"]
    click.echo(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
