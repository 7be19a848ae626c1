"""The method on a GPU: exact or not, how fast, beside PEFT; on models of Llama 3's shapes.

python -m benchmarks.cuda                        # needs torch, transformers, peft and numpy alone
python -m benchmarks.cuda --device cpu --small   # in miniature, anywhere

Prints a JSON object a line and writes results.json and results.md. A check that fails is a row with
its error, and the exit code is 1; the others run all the same. What the time does not suffice for
is left out and said.
"""

import argparse
import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from benchmarks.cuda.exactness import Models, checks
from benchmarks.cuda.laws import laws
from benchmarks.cuda.machine import Machine
from benchmarks.cuda.models import SHAPES
from benchmarks.cuda.speed import measurements, rate
from benchmarks.cuda.table import table

Check = tuple[str, Callable[[], dict[str, Any]]]


def main() -> int:
    """Returns 1 when a check failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="miniatures, for a try on a CPU")
    parser.add_argument("--only", choices=["exactness", "speed"], help="one half of it")
    parser.add_argument("--minutes", type=float, default=8.0, help="the whole, 8 by default")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--lengths", nargs="+", type=int, help="of the prefix, in tokens")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/cuda"))
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; try --device cpu --small")
    logging.set_verbosity_error()
    machine = Machine(arguments.device, arguments.small)
    lengths = arguments.lengths or ([4, 16] if arguments.small else [16, 512, 2048, 8192])
    # One after another, so that a check's models are let go before the next is made.
    halves = {
        "exactness": _exactness(arguments.device, arguments.small),
        "speed": itertools.chain(
            [("machine", lambda: rate(machine))], measurements(machine, arguments.shapes, lengths)
        ),
    }
    chosen = [arguments.only] if arguments.only else ["exactness", "speed"]
    rows = itertools.chain.from_iterable(halves[name] for name in chosen)
    found = run(rows, 60 * arguments.minutes, machine.free)
    arguments.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"card": machine.name, "rows": found}, indent=2)
    (arguments.output / "results.json").write_text(text + "\n", encoding="utf-8")
    (arguments.output / "results.md").write_text(table(machine.name, found), encoding="utf-8")
    print(f"written: {arguments.output / 'results.md'}")
    return int(any("error" in row for row in found))


def _exactness(device: str, small: bool) -> Iterator[Check]:
    models = Models(device, small)
    yield from laws(models)
    yield from checks(models)


def run(rows: Iterable[Check], seconds: float, free: Callable[[], None]) -> list[dict[str, Any]]:
    """What each check found, in the time there is: one is left out that would last too long.

    How long it would is taken from the longest of its sort so far.
    """
    began, found = time.perf_counter(), []
    longest: dict[str, float] = {}
    for name, check in rows:
        start, sort = time.perf_counter(), name.split(",")[0]
        if start - began + longest.get(sort, 0.0) > seconds:
            result: dict[str, Any] = {"skipped": "there is no time left for it"}
        else:
            result = _outcome(check)
            free()
        took = time.perf_counter() - start
        longest[sort] = max(took, longest.get(sort, 0.0))
        found.append({"check": name, **result, "seconds": round(took, 1)})
        print(json.dumps(found[-1]), flush=True)
    return found


def _outcome(check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a check found, with what it was warned of; its error where it failed."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            result = check()
        except Exception as error:  # the next one may still tell something
            result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    ours = [str(one.message) for one in warned if str(one.message).startswith("attention:")]
    return {**result, **({"warned": ours} if ours else {})}


if __name__ == "__main__":
    sys.exit(main())
