"""`python -m benchmarks.together`: what a sweep of 8 variants costs beside one.

On random weights of SmolLM2-135M's shape in bfloat16, with WebNLG's lengths: one variant alone,
all of them one after another, and all of them together, by turns in each round. Speeds are real
tokens a second of whole optimizer steps, ratios are round by round. Memory is the peak above what
rests there: model, prefixes and optimizers.
"""

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import torch
from datasets import Dataset
from tabulate import tabulate
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.examples import examples
from pipeline.config.memory import MemoryParams
from pipeline.config.train import TrainParams
from pipeline.errors import PipelineError
from pipeline.models.frozen import resolve_device
from pipeline.prefix import PrefixConfig, PrefixModel, random_kv_prefix
from pipeline.training.step import Step
from pipeline.training.together import advance
from pipeline.training.training import Training

_SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
_SMALL = {**_SMOLLM2, "vocab_size": 512, "num_hidden_layers": 2}
_LENGTHS = (16, 32, 64, 128)
"""Prefix lengths, in turn over the variants."""

_STEPS_OF_ONE = 2
"""In a round, against one step of all."""

WAYS = ("one", "in turn", "together")

_COUNT = click.IntRange(min=1)


def _counts(text: str) -> list[int]:
    """Numbers with commas between them, each at least 1."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{text!r} should be numbers of at least 1, such as 1,2,8")
    return [int(part) for part in parts]


@click.command()
@click.option("--variants", type=_COUNT, default=8, show_default=True)
@click.option(
    "--batches",
    default="1,2,8",
    show_default=True,
    callback=lambda context, option, text: _counts(text),
    help="train.batch_size, each.",
)
@click.option(
    "--rounds", type=_COUNT, default=3, show_default=True, help="Interleaved rounds of each way."
)
@click.option(
    "--max-tokens",
    type=_COUNT,
    default=MemoryParams().max_tokens_together,
    show_default=True,
    help="memory.max_tokens_together.",
)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--processor-time",
    is_flag=True,
    help="Seconds of the processor, for a CPU that others are at work on; with OMP_NUM_THREADS=1.",
)
@click.option("--small", is_flag=True, help="Two layers, for a try.")
def main(
    variants: int,
    batches: list[int],
    rounds: int,
    max_tokens: int,
    device: str,
    processor_time: bool,
    small: bool,
) -> None:
    """Measure a sweep of VARIANTS together, one after another, and one of them alone."""
    place = resolve_device(device)
    torch.manual_seed(0)
    frozen = LlamaForCausalLM(LlamaConfig(**(_SMALL if small else _SMOLLM2)))
    frozen = frozen.eval().requires_grad_(False).to(torch.bfloat16).to(place)
    name = torch.cuda.get_device_name() if place.type == "cuda" else place.type
    click.echo(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads")
    table = []
    for size in batches:
        trainings = [_training(frozen, i, size) for i in range(variants)]
        clock = time.process_time if processor_time else time.perf_counter
        found = _measure(trainings, rounds, max_tokens, place, clock)
        table.append({"batch": size, **_compared(found, variants)})
        click.echo(tabulate(table, headers="keys", tablefmt="github") + "\n")


def _training(frozen: PreTrainedModel, number: int, batch_size: int) -> Training:
    length = _LENGTHS[number % len(_LENGTHS)]
    model = PrefixModel(frozen, PrefixConfig(length))
    draw = torch.Generator().manual_seed(number)
    model.load_kv_prefix(random_kv_prefix(model.kv_shapes, length, 0.5, draw))
    rows = Dataset.from_list(examples(400, frozen.config.vocab_size))
    params = TrainParams(
        max_steps=10**6, epochs=None, batch_size=batch_size, learning_rate=1e-4, compile=False
    )
    training = Training(model, rows, rows.select([0]), params, number, lambda step, metrics: None)
    with training.drawing():
        training.begin()
    return training


def _measure(
    trainings: list[Training],
    rounds: int,
    max_tokens: int,
    device: torch.device,
    clock: Callable[[], float],
) -> dict[str, list[tuple[float, float, float]]]:
    """For each way and round: tokens, seconds, and the peak memory above what rests (bytes)."""

    def together() -> int:
        return _tokens(advance(trainings, _refuse, max_tokens))

    def one(training: Training) -> int:
        return _tokens(advance([training], _refuse, max_tokens))

    ways: dict[str, Callable[[], int]] = {
        "one": lambda: one(trainings[0]),
        "in turn": lambda: sum(map(one, trainings)),
        "together": together,
    }
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
    one(trainings[0])
    for _ in range(rounds):
        for way, work in ways.items():
            peak = _Peak(device)
            began = clock()
            tokens = sum(work() for _ in range(_STEPS_OF_ONE if way == "one" else 1))
            _wait(device)
            found[way].append((tokens, clock() - began, peak.above()))
    return found


def _tokens(steps: list[tuple[Training, Step]]) -> int:
    for training, step in steps:
        # What `record` notes of a step, and where the next one counts from.
        training.result.history.append({"step": step.number})
    return sum(step.tokens for _, step in steps)


def _refuse(_: Training, error: PipelineError | None) -> None:
    if error is not None:
        raise error


def _compared(found: dict[str, list[tuple[float, float, float]]], variants: int) -> dict[str, str]:
    speeds = {way: [tokens / seconds for tokens, seconds, _ in found[way]] for way in WAYS}
    seconds = {way: [seconds for _, seconds, _ in found[way]] for way in WAYS}
    faster = [a / b for a, b in zip(speeds["together"], speeds["in turn"], strict=True)]
    beside_one = [
        _STEPS_OF_ONE * a / b for a, b in zip(seconds["together"], seconds["one"], strict=True)
    ]
    return {
        **{f"{way} (tokens/s)": f"{median(speeds[way]):.0f}" for way in WAYS},
        "together, times in turn": _spread(faster),
        f"{variants} together cost, times one": _spread(beside_one),
        "memory (MB): one / together": " / ".join(
            f"{max(peak for *_, peak in found[way]) / 1e6:.0f}" for way in ("one", "together")
        ),
    }


def _spread(ratios: list[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


class _Peak:
    """The most memory that is used from now on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._rests = float(torch.cuda.memory_allocated())
        elif sys.platform == "linux":
            # What was freed goes back, so that it counts again.
            getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
            Path("/proc/self/clear_refs").write_text("5")
            self._rests = _status("VmRSS")

    def above(self) -> float:
        """Bytes above what was used at the begin; NaN where no one counts."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated() - self._rests
        return _status("VmHWM") - self._rests if sys.platform == "linux" else float("nan")


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{key}:"))
    return 1024.0 * int(line.split()[1])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
