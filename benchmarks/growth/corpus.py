"""The text that a prefix is computed from: time and memory of its keys and values."""

import json
import tempfile
from pathlib import Path

import click

from benchmarks.growth.process import measured
from benchmarks.growth.table import show

# A vocabulary whose logits would be most of the memory.
_MODEL = {"vocab_size": 32_000, "num_hidden_layers": 4}
_LOADED = f"""
import sys, time, torch
from benchmarks.growth.tiny import llama
from pipeline.prefix import kv_prefix_from_tokens
torch.set_num_threads(1)
model = llama(**{_MODEL!r})
tokens = torch.randint(3, {_MODEL["vocab_size"]}, (int(sys.argv[1]),))
began = time.perf_counter()
if len(tokens):
    kv = kv_prefix_from_tokens(model, tokens)
    print(time.perf_counter() - began, sum(t.nbytes for t in (*kv.keys, *kv.values)))
"""


@click.command()
@click.option("--numbers", default="1000,3000,10000,30000,100000", show_default=True)
def corpus(numbers: str) -> None:
    """Compute the keys and values of a text, each length in its own process."""
    rows: list[dict[str, str | float]] = []
    with tempfile.TemporaryDirectory(prefix="growth-") as name:
        folder = Path(name)
        alone = measured(["-c", _LOADED, "0"], folder)
        for number in map(int, numbers.split(",")):
            found = measured(["-c", _LOADED, str(number)], folder)
            seconds, kept = map(float, found.output.splitlines()[-1].split())
            rows.append(
                {
                    "tokens": number,
                    "seconds": seconds,
                    "keys and values (MB)": kept / 2**20,
                    "anonymous memory above the model (MB)": found.anonymous_mb
                    - alone.anonymous_mb,
                    "logits that are not made (MB)": number * _MODEL["vocab_size"] * 4 / 2**20,
                }
            )
            click.echo(json.dumps(rows[-1]))
    show("corpus", rows)
