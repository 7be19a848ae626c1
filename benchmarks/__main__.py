"""`python -m benchmarks`: training and evaluation beside PEFT, interleaved in one run."""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

SYSTEMS = ("ours", "peft", "peft_grouped")
Measured = list[dict[str, float]]


class Worker:
    """A system in a process of its own."""

    def __init__(self, system: str, p: int, model: str, seed: int = 0) -> None:
        command = [sys.executable, "-m", "benchmarks.worker", system, str(p), model, str(seed)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answer()

    def ask(self, **command: int) -> dict[str, float]:
        """Let it work; returns tokens, seconds and the peak memory above the model."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise MemoryError(f"the worker ended with code {self._process.wait()}")
        return dict(json.loads(line))


@click.command()
@click.option("--lengths", default="16,128,512,2048", show_default=True, help="Prefix lengths.")
@click.option("--rounds", default=3, show_default=True, help="Interleaved rounds of each system.")
@click.option("--steps", default=4, show_default=True, help="Training steps in a round.")
@click.option("--rows", default=32, show_default=True, help="Examples of one evaluation.")
@click.option("--model", default="data/model", show_default=True, help="The frozen model's folder.")
@click.option("--output", default="benchmarks/results", show_default=True, type=Path)
def main(lengths: str, rounds: int, steps: int, rows: int, model: str, output: Path) -> None:
    """Compare training and evaluation with PEFT's, and write table, JSON and picture to OUTPUT."""
    if not Path(model, "config.json").exists():
        raise click.ClickException(f"there is no model in {model}; run `dvc repro fetch_model`")
    compare([int(p) for p in lengths.split(",")], rounds, steps, rows, model, output)


def compare(
    lengths: list[int], rounds: int, steps: int, rows: int, model: str, output: Path
) -> None:
    """Check that both sides compute the same, measure them, and write what was found to OUTPUT."""
    from benchmarks.agreement import check_agreement
    from benchmarks.operations import matrix_product_rate
    from benchmarks.pictures import draw

    click.echo(check_agreement(model))
    results: list[dict[str, Any]] = []
    for p in lengths:
        # A step at a large p is long: fewer of them still fill a round.
        few = max(1, steps // (1 if p < 512 else 2 if p < 2048 else 4))
        # Before and after: a shared machine's speed drifts.
        rates = [matrix_product_rate()]
        measured = _measure_length(p, rounds, few, rows, model)
        rate = statistics.mean([*rates, matrix_product_rate()])
        click.echo(f"matrix products in bfloat16: {rate / 1e9:.0f} GFLOP/s")
        results.append(_compare(p, measured, rate, few, model))
        click.echo(_table(results[-1:]) + "\n")
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"results": results}, indent=2)
    (output / "results.json").write_text(text + "\n")
    (output / "results.md").write_text(_table(results) + "\n")
    draw(results, output / "results.png")
    click.echo(_table(results))


def _measure_length(
    p: int, rounds: int, steps: int, rows: int, model: str
) -> dict[str, dict[str, Measured]]:
    """Rounds of training, then of evaluation, the systems taking turns."""
    measured: dict[str, dict[str, Measured]] = {
        name: {"train": [], "evaluate": []} for name in SYSTEMS
    }
    for what, systems, command in (
        ("train", SYSTEMS, {"steps": steps}),
        ("evaluate", SYSTEMS[:2], {"evaluate": rows}),
    ):
        workers: dict[str, Worker] = {}
        for name in systems:
            workers[name] = Worker(name, p, model)
            workers[name].ask(**({"steps": 1} if what == "train" else {"evaluate": 8}))
        for _ in range(rounds if what == "train" else max(2, rounds // 2)):
            for name, worker in workers.items():
                measured[name][what].append(worker.ask(**command))
        for worker in workers.values():
            worker.close()
    return measured


def _compare(
    p: int, measured: dict[str, dict[str, Measured]], rate: float, steps: int, model: str
) -> dict[str, Any]:
    """Medians, and the ratios of ours to each of PEFT's round by round."""
    result: dict[str, Any] = {"p": p, "gflops_of_products": rate / 1e9}
    for name, kinds in measured.items():
        for what, rounds in kinds.items():
            if rounds:
                speeds = [round_["tokens"] / round_["seconds"] for round_ in rounds]
                result[f"{name}_{what}_tokens_per_second"] = statistics.median(speeds)
                peak = max(round_["peak_megabytes"] for round_ in rounds)
                result[f"{name}_{what}_peak_megabytes"] = peak
    for other, what in (("peft", "train"), ("peft_grouped", "train"), ("peft", "evaluate")):
        ratios = [
            (ours["tokens"] / ours["seconds"]) / (theirs["tokens"] / theirs["seconds"])
            for ours, theirs in zip(measured["ours"][what], measured[other][what], strict=True)
        ]
        result[f"{what}_ratio_to_{other}"] = {
            "median": statistics.median(ratios),
            "minimum": min(ratios),
            "maximum": max(ratios),
        }
    result["share_of_products"] = _share(p, measured["ours"]["train"], rate, steps, model)
    return result


def _share(p: int, rounds: Measured, rate: float, steps: int, model: str) -> float:
    """The operations that the mathematics of our steps needs, per second, by the products' rate."""
    from transformers import AutoConfig

    from benchmarks.examples import examples
    from benchmarks.operations import needed_operations
    from benchmarks.systems import shuffled

    config = AutoConfig.from_pretrained(model)
    batches = shuffled(examples(800, config.vocab_size))
    next(batches)  # The step of warming up.
    shares = [
        sum(needed_operations(config, next(batches), p) for _ in range(steps))
        / round_["seconds"]
        / rate
        for round_ in rounds
    ]
    return statistics.median(shares)


def _table(results: list[dict[str, Any]]) -> str:
    headers = [
        "p",
        "train: ours (tokens/s)",
        "times PEFT",
        "times PEFT, length-grouped",
        "share of products",
        "memory above the model (MB): ours / PEFT / grouped",
        "evaluate: ours (tokens/s)",
        "times PEFT",
    ]
    rows = [
        [
            result["p"],
            f"{result['ours_train_tokens_per_second']:.0f}",
            _ratio(result["train_ratio_to_peft"]),
            _ratio(result["train_ratio_to_peft_grouped"]),
            f"{100 * result['share_of_products']:.0f}%",
            " / ".join(f"{result[f'{name}_train_peak_megabytes']:.0f}" for name in SYSTEMS),
            f"{result['ours_evaluate_tokens_per_second']:.0f}",
            _ratio(result["evaluate_ratio_to_peft"]),
        ]
        for result in results
    ]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['minimum']:.2f} to {ratio['maximum']:.2f})"


if __name__ == "__main__":
    main()
