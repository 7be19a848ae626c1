"""`python -m benchmarks.serving URL`: tokens a second of any server that speaks OpenAI's protocol.

Rows are numbers of requests at once; each is a chat of its own with a fixed number of new tokens.
Every engine's rows are kept beside those of the others, by the label that they are given.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx2
from tabulate import tabulate

RESULTS = Path("benchmarks/results/serving.json")
# About 60 tokens each, and no two alike, so that no engine answers from what it kept.
PROMPT = (
    "Area - land: {0} sq km\nArea - water: {1} sq km\nCoastline: {2} km\nHighest point: {3} m\n\n"
    "Country {4}, Geography: what is the Area - land?"
)


@dataclass(frozen=True)
class Target:
    """A server and what it is asked with."""

    url: str
    model: str
    tokens: int
    extra: dict[str, Any]
    headers: dict[str, str]


@dataclass(frozen=True)
class Timed:
    """One answer: seconds until its first token and until its last, and its tokens."""

    first: float
    last: float
    tokens: int


@click.command()
@click.argument("url")
@click.option("--model", "models", multiple=True, required=True, help="A served name; repeatable.")
@click.option("--label", required=True, help="What the rows are called: engine, dtype, threads.")
@click.option("--at-once", default="1,8,32", show_default=True, help="Numbers of requests.")
@click.option("--tokens", default=100, show_default=True, help="New tokens of each request.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--body", default="{}", help="JSON that is added to each request's body.")
@click.option("--api-key", envvar="SERVE_API_KEY", default="none")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(
    url: str,
    models: Sequence[str],
    label: str,
    at_once: str,
    tokens: int,
    rounds: int,
    body: str,
    api_key: str,
    output: Path,
) -> None:
    """Measure the server at URL (http://127.0.0.1:8000/v1), and print all rows measured so far."""
    headers = {"Authorization": f"Bearer {api_key}"}
    targets = [Target(url.rstrip("/"), m, tokens, json.loads(body), headers) for m in models]
    counts = [int(count) for count in at_once.split(",")]
    for target in targets:
        asyncio.run(ask_at_once(target, 1, seed=-1))  # what is made at first use
    measured: dict[str, list[list[Timed]]] = {}
    # The models take turns, so that a machine that slows down slows both.
    for turn in range(rounds):
        for count in counts:
            for target in targets:
                answers = asyncio.run(ask_at_once(target, count, seed=turn * 1000))
                measured.setdefault(f"{target.model}|{count}", []).append(answers)
    known = json.loads(output.read_text()) if output.exists() else {}
    known[label] = {row: figures_of(turns) for row, turns in measured.items()}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(known, indent=2) + "\n")
    click.echo(table_of(known))


async def ask_at_once(target: Target, count: int, seed: int) -> list[Timed]:
    """So many requests at once; each seed has questions of its own."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(timeout=600, limits=limits, headers=target.headers) as client:
        return list(
            await asyncio.gather(*(_ask(client, target, seed * 100 + i) for i in range(count)))
        )


async def _ask(client: httpx2.AsyncClient, target: Target, number: int) -> Timed:
    text = PROMPT.format(*(number * step + 91 for step in (7, 11, 13, 17)), number)
    asked = {
        "model": target.model,
        "messages": [{"role": "user", "content": text}],
        **{"max_tokens": target.tokens, "temperature": 0, "ignore_eos": True},
        **{"stream": True, "stream_options": {"include_usage": True}},
        **target.extra,
    }
    began = time.perf_counter()
    first, written = 0.0, 0
    async with client.stream("POST", f"{target.url}/chat/completions", json=asked) as reply:
        if reply.status_code != 200:
            raise click.ClickException(f"{target.url}: {(await reply.aread()).decode()}")
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise click.ClickException(f"{target.url}: {chunk['error']}")
            choices = chunk.get("choices") or []
            if not first and choices and choices[0]["delta"].get("content"):
                first = time.perf_counter() - began
            written = (chunk.get("usage") or {}).get("completion_tokens", written)
    return Timed(first, time.perf_counter() - began, written)


def figures_of(turns: Sequence[Sequence[Timed]]) -> dict[str, list[float]]:
    """Of each round: new tokens a second of all requests, and of one after its first."""
    total = [sum(a.tokens for a in turn) / max(a.last for a in turn) for turn in turns]
    each = [
        statistics.median((a.tokens - 1) / max(1e-9, a.last - a.first) for a in turn)
        for turn in turns
    ]
    first = [statistics.median(a.first for a in turn) for turn in turns]
    return {"tokens_per_second": total, "of_one": each, "first_seconds": first}


def table_of(known: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """Medians with least and most, a row for each label, model and number of requests at once."""
    rows = []
    for label, measured in known.items():
        for row, figures in measured.items():
            model, _, count = row.rpartition("|")
            shown = [_shown(figures[key]) for key in ("tokens_per_second", "of_one")]
            rows.append([label, model, count, *shown, _shown(figures["first_seconds"], 2)])
    heads = ["engine", "model", "at once", "tokens/s", "of one request", "seconds to the first"]
    return str(tabulate(rows, heads, tablefmt="github", disable_numparse=True))


def _shown(figures: Sequence[float], digits: int = 1) -> str:
    median, least, most = statistics.median(figures), min(figures), max(figures)
    return f"{median:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


if __name__ == "__main__":
    main()
