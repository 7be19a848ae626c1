"""`python -m benchmarks.decoding`: processor time of a decoded token, with the kernel and without.

The frozen model of params.yaml after a prefix, in this process and on one thread by default. The
ways take turns, and processor time is counted: other processes cost both alike. `layers by torch`
and `by the kernel` are for any number of rows, where decoding takes the kernel for a few
(`most_tokens`), so that the table shows where it should end. The floor is that of reading every
weight once. Without a C++ compiler there is no kernel, and torch is measured alone.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from unittest import mock

import click
import torch
from tabulate import tabulate
from transformers import PreTrainedModel

from pipeline.config import load_params
from pipeline.models.frozen import load_frozen_model
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix import kv_prefix_from_text
from pipeline.prefix.packed.kernel.few_tokens import bound
from pipeline.prefix.packed.kernel.loading import kernel_lanes
from pipeline.prefix.packed.running import Beginning, RunningRows, Stem
from pipeline.schema.compute import Compute
from pipeline.sources.model import fetch_model
from pipeline.workspace import paths

TEXT = "Answer the question in as few words as you can. " * 8
DTYPES = ("float32", "bfloat16")
WAYS = {"layers by torch": 0, "by the kernel": 1 << 30}
"""How many rows the kernel serves."""
INPUT = "Area - land: 91 sq km\n\nAlba, Geography: what is the Area - land?"


def milliseconds(model: PreTrainedModel, stem: Stem, ids: list[int], count: int, n: int) -> float:
    """Processor time of each of `n` steps that decode a token of each of `count` rows."""
    rows = RunningRows(model)
    with torch.inference_mode(), rows.at_work():
        _, logits = rows.join([Beginning(stem, ids, n + 8)] * count)
        for step in range(n + 4):
            if step == 4:  # what is laid out at the first tokens is there
                began = time.process_time()
            logits = rows.step(logits.argmax(-1).tolist())
        return (time.process_time() - began) / n * 1e3


def floor(model: PreTrainedModel) -> float:
    """Processor time of reading all weights that a token is multiplied with."""
    weights = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]
    views = [weight.detach().view(torch.int64).numpy() for weight in weights]
    began = time.process_time()
    for view in views:
        view.max()
    return (time.process_time() - began) * 1e3


@click.command()
@click.option("--rows", default="1,8,32", show_default=True, help="Numbers of rows.")
@click.option("--steps", default=12, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--dtype", default=",".join(DTYPES), show_default=True)
def main(rows: str, steps: int, rounds: int, threads: int, dtype: str) -> None:
    """Print milliseconds of processor time a step: median, least and most."""
    torch.set_num_threads(threads)
    ways = {name: most for name, most in WAYS.items() if not most or kernel_lanes() is not None}
    if len(ways) < len(WAYS):
        click.echo(
            "note: without a C++ compiler that works (g++, clang++ or c++) there is no kernel; "
            "torch is measured alone",
            err=True,
        )
    if not paths.MODEL.exists():
        fetch_model(load_params().model, paths.MODEL)
    tokenizer = load_tokenizer(paths.MODEL)
    ids = tokenizer(INPUT)["input_ids"]
    dtypes = dtype.split(",")
    table = [row for name in dtypes for row in _rows(name, ways, rows, ids, steps, rounds)]
    headers = ["dtype", "rows", *ways, "weights read once"]
    print(tabulate(table, headers, tablefmt="github", disable_numparse=True))


def _rows(
    dtype: str, named: dict[str, int], rows: str, ids: list[int], steps: int, rounds: int
) -> Iterator[list[str]]:
    model = load_frozen_model(
        paths.MODEL, Compute.model_validate({"device": "cpu", "dtype": dtype})
    )
    tokenizer = load_tokenizer(paths.MODEL)
    stem = Stem(kv_prefix_from_text(model, tokenizer, TEXT, num_virtual_tokens=32))
    for count in map(int, rows.split(",")):
        ways: dict[str, Callable[[], float]] = {
            name: partial(_with, most, model, stem, ids, count, steps)
            for name, most in named.items()
        }
        ways["weights read once"] = partial(floor, model)
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                found[name].append(way())
        row = [dtype, str(count), *map(_shown, found.values())]
        print(*row, flush=True)
        yield row


def _with(
    most: int, model: PreTrainedModel, stem: Stem, ids: list[int], count: int, steps: int
) -> float:
    with mock.patch.object(bound, "most_tokens", return_value=most):
        return milliseconds(model, stem, ids, count, steps)


def _shown(figures: list[float]) -> str:
    return f"{statistics.median(figures):.1f} ({min(figures):.1f} to {max(figures):.1f})"


if __name__ == "__main__":
    main()
