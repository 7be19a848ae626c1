"""`python -m benchmarks.distilled_memory`: what the loss of a batch takes, distilled and plain.

A random model of two narrow layers with SmolLM2's vocabulary, so that nearly all memory is logits.
What torch allocates and frees in one forward and backward pass is added up as its profiler tells.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.data.batching import Example
from pipeline.data.teacher import TEACHER_IDS, TEACHER_LOG_PROBS
from pipeline.loss.causal import TargetLoss
from pipeline.loss.distillation import DistillationLoss
from pipeline.prefix import PrefixConfig, PrefixModel

MEGABYTE = 2**20
_INPUT, _TARGET, _TOP_K = 4, 64, 20


@click.command()
@click.option("--vocabulary", default=49_152, show_default=True, help="Tokens.")
@click.option(
    "--positions", default="512,2048", show_default=True, help="Target tokens of a batch."
)
def main(vocabulary: int, positions: str) -> None:
    """Print the peak of each loss above what is there before it, beside the size of all logits."""
    rows = []
    for count in map(int, positions.split(",")):
        plain, distilled = peaks(vocabulary, count)
        logits = 4 * vocabulary * count
        rows.append([count, *(f"{b / MEGABYTE:.0f}" for b in (logits, plain, distilled))])
    headers = ["target tokens", "all logits (MB)", "cross-entropy (MB)", "distilled (MB)"]
    click.echo("\n" + tabulate(rows, headers, tablefmt="github", disable_numparse=True) + "\n")


def peaks(vocabulary: int, positions: int) -> tuple[int, int]:
    """Bytes at the peak of the plain and of the distilled loss, for so many target tokens."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    frozen = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **size, **heads)).eval()
    model = PrefixModel(frozen, PrefixConfig(4)).train()
    rows = _examples(vocabulary, positions)
    found = []
    for loss_of in (TargetLoss(model), DistillationLoss(model, 1.0)):
        # What is tried and compiled once is none of a step's.
        loss_of(rows[:1]).backward()
        found.append(peak_of(lambda loss_of=loss_of: loss_of(rows).backward()))  # type: ignore[misc]
    model.detach()
    return found[0], found[1]


def peak_of(work: Callable[[], Any]) -> int:
    """The most bytes on the CPU that torch holds at once of what some work allocates."""
    with (
        tempfile.TemporaryDirectory() as folder,
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled,
    ):
        work()
        profiled.stop()
        path = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted(
        (event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"
    )
    return max(np.cumsum([change for _, change in changes]), default=0)


def _examples(vocabulary: int, positions: int) -> list[Example]:
    draw = np.random.default_rng(0)
    rows: list[Example] = []
    for _ in range(positions // _TARGET):
        drawn = draw.integers(vocabulary - _TOP_K, size=(_TARGET, _TOP_K), dtype=np.int32)
        # Different tokens at each position.
        ids = np.sort(drawn) + np.arange(_TOP_K, dtype=np.int32)
        rows.append(
            {
                "input_ids": draw.integers(vocabulary, size=_INPUT + _TARGET).tolist(),
                "target_start": _INPUT,
                TEACHER_IDS: ids,
                TEACHER_LOG_PROBS: np.full((_TARGET, _TOP_K), -4.0, np.float32),
            }
        )
    return rows


if __name__ == "__main__":
    main()
