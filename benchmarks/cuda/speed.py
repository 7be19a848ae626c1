"""Training and decoding in real tokens a second, beside PEFT and `generate`."""

import itertools
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.cuda.models import build, config_of
from benchmarks.cuda.systems import Ours, Peft, Rows, System, start_of
from benchmarks.examples import examples
from benchmarks.operations import needed_operations

# After so many steps that are not counted.
_WARM_UP = 2


class Machine:
    """The device, its rate of products, and one frozen model at a time.

    Attributes:
        seconds: how long a system's steps are measured, after two that are not counted.
    """

    def __init__(self, device: str, small: bool) -> None:
        self.device, self.small = device, small
        self.seconds = 0.1 if small else 4.0
        self._rate: float | None = None
        self._kept: tuple[str, PreTrainedModel] | None = None

    @property
    def on_cuda(self) -> bool:
        """Whether time passes on a GPU, and memory is its."""
        return self.device.startswith("cuda")

    @property
    def name(self) -> str:
        """The card's name."""
        return torch.cuda.get_device_name(self.device) if self.on_cuda else "CPU"

    def now(self) -> float:
        """Seconds, once all that was begun has ended."""
        if self.on_cuda:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def rate(self) -> float:
        """Floating-point operations a second of a bfloat16 product: the median of 30."""
        if self._rate is None:
            size = 128 if self.small else 8192
            left, right = (
                torch.randn(size, size, dtype=torch.bfloat16, device=self.device) for _ in range(2)
            )
            times = []
            for _ in range(40):
                began = self.now()
                left @ right
                times.append(self.now() - began)
            self._rate = 2 * size**3 / median(times[10:])
        return self._rate

    def model(self, shape: str) -> PreTrainedModel:
        """The frozen model of a shape, bfloat16; another one is let go before."""
        if self._kept is None or self._kept[0] != shape:
            self._kept = None
            self.free()
            made = build(config_of(shape, self.small), torch.bfloat16, self.device)
            self._kept = shape, made
        return self._kept[1]

    def free(self) -> None:
        """Give memory that nothing holds back to the device."""
        if self.on_cuda:
            torch.cuda.empty_cache()


def rate(machine: Machine) -> dict[str, Any]:
    """The machine, and its rate of products."""
    return {
        "card": machine.name,
        "torch": torch.__version__,
        "TFLOP a second (bfloat16 product)": round(machine.rate() / 1e12, 3),
    }


def training(
    machine: Machine, shape: str, p: int, batch: int, make: Callable[..., System]
) -> dict[str, Any]:
    """Steps of AdamW over `batch` examples of WebNLG's lengths.

    Where they do not fit at once, half of them do, and so on, with gradients added up.
    """
    at_once = batch
    while True:
        try:
            return _trained(machine, shape, p, batch, at_once, make)
        except torch.OutOfMemoryError:
            if at_once == 1:
                return {"skipped": "one example does not fit into the card's memory"}
        # Outside of the handler, whose error holds what did not fit.
        at_once //= 2
        machine.free()


def _trained(
    machine: Machine, shape: str, p: int, batch: int, at_once: int, make: Callable[..., System]
) -> dict[str, Any]:
    frozen = machine.model(shape)
    rows = examples(8 * batch, frozen.config.vocab_size)
    system = make(frozen, start_of(frozen, p))
    try:
        optimizer = torch.optim.AdamW(system.parameters(), lr=1e-3, fused=True)
        batches = itertools.cycle(rows[i : i + batch] for i in range(0, len(rows), batch))
        resting = torch.cuda.memory_allocated(machine.device) if machine.on_cuda else 0
        system.model.train()
        steps: list[tuple[Rows, float]] = []
        for number in itertools.count():
            if machine.on_cuda and number == _WARM_UP:
                torch.cuda.reset_peak_memory_stats(machine.device)
            step, began = next(batches), machine.now()
            targets = sum(len(row["input_ids"]) - row["target_start"] for row in step)
            for first in range(0, batch, at_once):
                system.loss(step[first : first + at_once], 1 / targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            steps.append((step, machine.now() - began))
            counted = steps[_WARM_UP:]
            if len(counted) >= 3 and sum(seconds for _, seconds in counted) > machine.seconds:
                break
        peak = (
            torch.cuda.max_memory_allocated(machine.device) - resting if machine.on_cuda else None
        )
    finally:
        system.leave()
    speeds = [_tokens(step) / seconds for step, seconds in counted]
    config = frozen.config
    shares = [
        needed_operations(config, list(step), p) / seconds / machine.rate()
        for step, seconds in counted
    ]
    return {
        "tokens a second": round(median(speeds)),
        "from": round(min(speeds)),
        "to": round(max(speeds)),
        "share of products": f"{median(shares):.0%}",
        "peak MB above the model": None if peak is None else round(peak / 1e6),
        "examples at once": at_once,
        "steps": len(counted),
    }


def decoding(
    machine: Machine, shape: str, p: int, rows: int, most: int, make: Callable[..., System]
) -> dict[str, Any]:
    """Greedy continuations of `rows` inputs, `most` tokens each; prefill included."""
    frozen = machine.model(shape)
    chosen = examples(rows, frozen.config.vocab_size, seed=1)
    system = make(frozen, start_of(frozen, p))
    system.model.eval()
    try:
        system.texts(chosen, 2)
        if machine.on_cuda:
            torch.cuda.reset_peak_memory_stats(machine.device)
            resting = torch.cuda.memory_allocated(machine.device)
        began = machine.now()
        texts = system.texts(chosen, most)
        seconds = machine.now() - began
        peak = (
            torch.cuda.max_memory_allocated(machine.device) - resting if machine.on_cuda else None
        )
    except torch.OutOfMemoryError:
        return {"skipped": f"{rows} rows do not fit into the card's memory"}
    finally:
        system.leave()
    return {
        "tokens a second": round(sum(map(len, texts)) / seconds),
        "peak MB above the model": None if peak is None else round(peak / 1e6),
    }


def _tokens(rows: Rows) -> int:
    return sum(len(row["input_ids"]) for row in rows)


def measurements(
    machine: Machine, shapes: list[str], lengths: list[int]
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Each measurement with its name, the first to be had first."""
    batches = {"Llama-3.2-1B": 128, "Llama-3.1-8B": 32}
    padded = lambda frozen, start: Ours(frozen, start, packs=False)  # noqa: E731
    for shape in shapes:
        batch, rows, most = (2, 2, 4) if machine.small else (batches[shape], 32, 64)
        for p in lengths:
            for name, make in (("packed", Ours), ("PEFT", Peft)):
                yield (
                    f"training, {shape}, p={p}, {batch} examples: {name}",
                    lambda p=p, make=make, shape=shape, batch=batch: training(
                        machine, shape, p, batch, make
                    ),
                )
        for p in lengths:
            for name, make in (("packed", Ours), ("generate", padded)):
                yield (
                    f"decoding, {shape}, p={p}, {rows} rows of {most} tokens: {name}",
                    lambda p=p, make=make, shape=shape, rows=rows, most=most: decoding(
                        machine, shape, p, rows, most, make
                    ),
                )
