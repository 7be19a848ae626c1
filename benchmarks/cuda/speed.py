"""Training and decoding in real tokens a second, beside PEFT and `generate`."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.cuda.machine import Machine
from benchmarks.cuda.systems import Make, Ours, Peft, Rows, padded_ours, start_of
from benchmarks.examples import examples
from benchmarks.operations import needed_operations
from pipeline.errors.memory import is_out_of_memory

# Examples of an optimizer step: as many as fill a card, and few, which wait for launches.
_BATCHES = {"Llama-3.2-1B": 128, "Llama-3.1-8B": 32}
_FEW = 8
# After so many steps that are not counted.
_WARM_UP = 2


def rate(machine: Machine) -> dict[str, Any]:
    """The machine, and its rate of products."""
    return {
        "card": machine.name,
        "torch": torch.__version__,
        "TFLOP a second (bfloat16 product)": round(machine.rate() / 1e12, 3),
    }


def training(machine: Machine, shape: str, p: int, batch: int, make: Make) -> dict[str, Any]:
    """Steps of AdamW over `batch` examples of WebNLG's lengths.

    Where they do not fit at once, half of them do, and so on, with gradients added up.
    """
    at_once = batch
    while True:
        try:
            return _trained(machine, shape, p, batch, at_once, make)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if at_once == 1:
                return {"skipped": "one example does not fit into the card's memory"}
        # Outside of the handler, whose error holds what did not fit.
        at_once //= 2
        machine.free()


def _trained(
    machine: Machine, shape: str, p: int, batch: int, at_once: int, make: Make
) -> dict[str, Any]:
    frozen = machine.model(shape)
    rows = examples(8 * batch, frozen.config.vocab_size)
    system = make(frozen, start_of(frozen, p))
    try:
        optimizer = torch.optim.AdamW(system.parameters(), lr=1e-3, fused=True)
        batches = itertools.cycle(rows[i : i + batch] for i in range(0, len(rows), batch))
        resting = machine.held()
        system.model.train()
        steps: list[tuple[Rows, float]] = []
        for number in itertools.count():
            if number == _WARM_UP:
                machine.forget_peak()
            step, began = next(batches), machine.now()
            targets = sum(len(row["input_ids"]) - row["target_start"] for row in step)
            for first in range(0, batch, at_once):
                system.loss(step[first : first + at_once], 1 / targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            steps.append((step, machine.now() - began))
            counted = steps[_WARM_UP:]
            if len(counted) >= 3 and sum(seconds for _, seconds in counted) > machine.seconds:
                break
        peak = machine.peak(resting)
    finally:
        system.leave()
    speeds = [_tokens(step) / seconds for step, seconds in counted]
    config = frozen.config
    shares = [
        needed_operations(config, [dict(row) for row in step], p) / seconds / machine.rate()
        for step, seconds in counted
    ]
    return {
        "tokens a second": round(median(speeds)),
        "from": round(min(speeds)),
        "to": round(max(speeds)),
        "share of products": f"{median(shares):.0%}",
        "peak MB above the model": peak,
        "examples at once": at_once,
        "steps": len(counted),
    }


def decoding(
    machine: Machine, shape: str, p: int, rows: int, most: int, make: Make
) -> dict[str, Any]:
    """Greedy continuations of `rows` inputs, `most` tokens each; prefill included."""
    frozen = machine.model(shape)
    chosen = examples(rows, frozen.config.vocab_size, seed=1)
    system = make(frozen, start_of(frozen, p))
    system.model.eval()
    try:
        system.texts(chosen, 2)
        machine.forget_peak()
        resting = machine.held()
        began = machine.now()
        texts = system.texts(chosen, most)
        seconds = machine.now() - began
        peak = machine.peak(resting)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return {"skipped": f"{rows} rows do not fit into the card's memory"}
    finally:
        system.leave()
    return {
        "tokens a second": round(sum(map(len, texts)) / seconds),
        "peak MB above the model": peak,
    }


def _tokens(rows: Rows) -> int:
    return sum(len(row["input_ids"]) for row in rows)


def measurements(
    machine: Machine, shapes: list[str], lengths: list[int]
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Each measurement with its name, the first to be had first."""
    for shape in shapes:
        batch, rows, most = (2, 2, 4) if machine.small else (_BATCHES[shape], 32, 64)
        trainings: tuple[tuple[str, Make], ...] = (("packed", Ours), ("PEFT", Peft))
        steps = [*((p, batch) for p in lengths), *([] if machine.small else [(lengths[0], _FEW)])]
        for (p, size), (name, make) in itertools.product(steps, trainings):
            what = f"training, {shape}, p={p}, {size} examples: {name}"
            yield what, partial(training, machine, shape, p, size, make)
        decodings: tuple[tuple[str, Make], ...] = (("packed", Ours), ("generate", padded_ours))
        for p, (name, make) in itertools.product(lengths, decodings):
            what = f"decoding, {shape}, p={p}, {rows} rows of {most} tokens: {name}"
            yield what, partial(decoding, machine, shape, p, rows, most, make)
