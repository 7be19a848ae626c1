"""`python -m benchmarks.long_text`: the memory in which a long text's cache is computed.

First a random small model reads the whole text. Then single layers of Llama-3.1-8B's shape, random
and in bfloat16, read a piece at the start of the text and a piece at its end: what one layer and
what two take at the most gives the layer's share and what is there once, and so the model's 32.
Each measurement is a process of its own, whose peak is counted from where its model is loaded.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

MEGABYTE = 2**20
TINY = {
    **{"vocab_size": 32_000, "hidden_size": 64, "intermediate_size": 128},
    **{"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2},
}
# Of meta-llama/Llama-3.1-8B; without its embeddings, which read a text at no cost worth a figure.
EIGHT_BILLION = {
    **{"vocab_size": 128, "hidden_size": 4096, "intermediate_size": 14_336},
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128},
}
LAYERS = 32


@click.command()
@click.option("--tokens", default=120_000, show_default=True, help="Of the text.")
@click.option("--measure", default=None, hidden=True, help="One measurement, in this process.")
def main(tokens: int, measure: str | None) -> None:
    """Print bytes of the cache, the peak above it and above the model, and processor seconds."""
    if measure is not None:
        found = _whole(tokens) if measure == "whole" else _layers(int(measure), tokens)
        click.echo(json.dumps(found))
        return
    whole = _in_its_own_process("whole", tokens)
    _show(f"A random Llama of 2 layers, float32, reads {tokens:,} tokens:", _row(whole))
    one, two = (_in_its_own_process(str(layers), tokens) for layers in (1, 2))
    for found, layers in ((one, "1 layer"), (two, "2 layers")):
        title = f"{layers} of Llama-3.1-8B's shape, bfloat16, the last piece of {tokens:,} tokens:"
        _show(title, _row(found))
    _show(f"Llama-3.1-8B ({LAYERS} layers) by these:", _row(extrapolated(one, two, LAYERS, tokens)))


def extrapolated(
    one: dict[str, float], two: dict[str, float], layers: int, tokens: int
) -> dict[str, float]:
    """What more layers take, in bytes and seconds, from what one and two took.

    A piece's seconds grow linearly with the tokens before it, so that the mean of the first and
    the last is that of all.
    """
    more = {key: one[key] + (layers - 1) * (two[key] - one[key]) for key in ("cache", "peak")}
    first, last = (two[key] - one[key] for key in ("first_seconds", "last_seconds"))
    pieces = tokens / one["piece"]
    return {**more, "piece": one["piece"], "seconds": layers * pieces * (first + last) / 2}


def _in_its_own_process(measure: str, tokens: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.long_text"]
    done = subprocess.run(
        [*command, "--tokens", str(tokens), "--measure", measure],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(done.stderr[-2000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _whole(tokens: int) -> dict[str, float]:
    import torch

    from benchmarks.growth.tiny import llama
    from pipeline.prefix import kv_prefix_from_tokens
    from pipeline.prefix.starts.prefill import piece_of

    model = llama(**TINY)
    ids = torch.randint(3, TINY["vocab_size"], (tokens,))
    kv_prefix_from_tokens(model, ids[:50])
    held, began = _restarted(), time.process_time()
    kv = kv_prefix_from_tokens(model, ids)
    seconds, peak = time.process_time() - began, _memory("VmHWM") - held
    cache = sum(tensor.nbytes for tensor in (*kv.keys, *kv.values))
    return {"cache": cache, "peak": peak, "seconds": seconds, "piece": piece_of(tokens)}


def _layers(layers: int, tokens: int) -> dict[str, float]:
    """The first and the last piece of a text in a few layers, the cache between them random."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipeline.prefix.starts.prefill import cache_for, piece_of, shared_keys

    torch.manual_seed(0)
    config = LlamaConfig(
        **EIGHT_BILLION,
        num_hidden_layers=layers,
        max_position_embeddings=2**18,
    )
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config).eval()
    piece = piece_of(tokens)
    ids = torch.randint(3, EIGHT_BILLION["vocab_size"], (1, piece))
    held = _restarted()
    cache = cache_for(model, tokens)
    seconds = []
    with torch.no_grad(), shared_keys(model):
        for before in (0, max(0, tokens - 2 * piece)):
            between = torch.randn(1, 1, 1, 1).expand(
                1, EIGHT_BILLION["num_key_value_heads"], before, EIGHT_BILLION["head_dim"]
            )
            if before:
                for index in range(layers):
                    cache.update(between, between, index)
            began = time.process_time()
            model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            seconds.append(time.process_time() - began)
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    peak = _memory("VmHWM") - held
    return {
        **{"cache": kept, "peak": peak, "piece": piece},
        **{"first_seconds": seconds[0], "last_seconds": seconds[1]},
    }


def _restarted() -> int:
    """The bytes that the process holds; its peak counts anew from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _row(found: dict[str, float]) -> dict[str, Any]:
    seconds = (
        {"processor seconds": found["seconds"]}
        if "seconds" in found
        else {
            "first piece (processor s)": found["first_seconds"],
            "last piece (processor s)": found["last_seconds"],
        }
    )
    return {
        "cache (MB)": found["cache"] / MEGABYTE,
        "peak above the model (MB)": found["peak"] / MEGABYTE,
        "peak above the cache (MB)": (found["peak"] - found["cache"]) / MEGABYTE,
        "tokens of a piece": found["piece"],
        **seconds,
    }


def _show(title: str, row: dict[str, Any]) -> None:
    shown = [[f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in row.values()]]
    click.echo(f"{title}\n")
    click.echo(tabulate(shown, list(row), tablefmt="github", disable_numparse=True) + "\n")


if __name__ == "__main__":
    main()
