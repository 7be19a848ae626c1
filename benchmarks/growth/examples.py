"""The examples of a training: what a stage takes of 10^4, 10^5 and 10^6 of them."""

import json
import random
import tempfile
from pathlib import Path

import click
from ruamel.yaml import YAML

from benchmarks.growth import tiny
from benchmarks.growth.process import Measured, measured
from benchmarks.growth.table import show

TOKENS, TARGET = 300, 20
STEPS = 40
_LOADED = """
from pathlib import Path
from pipeline.config import load_params
from pipeline.models.frozen import load_frozen_model
from pipeline.models.tokenizer import load_tokenizer
import pipeline.stages.evaluate, pipeline.stages.tokenize, pipeline.stages.train
params = load_params()
load_tokenizer(Path("data/model"))
load_frozen_model(Path("data/model"), params.train)
"""
_VARIANT = ["--length", "8", "--initialization", "random", "--seed", "0"]


@click.command()
@click.option("--numbers", default="10000,100000,1000000", show_default=True)
@click.option("--most-evaluated", default=20_000, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="A folder to work in, and keep.")
def examples(numbers: str, most_evaluated: int, folder: Path | None) -> None:
    """Fetch, tokenize, train on and evaluate examples of 300 tokens, each in its own process.

    Memory is that above a process which has loaded the same libraries and the model alone.
    """
    rows: list[dict[str, str | float]] = []
    for number in map(int, numbers.split(",")):
        with tempfile.TemporaryDirectory(prefix="growth-", dir=folder) as name:
            rows += _rows(Path(name), number, min(number, most_evaluated))
        show("examples", rows)


def _rows(folder: Path, number: int, evaluated: int) -> list[dict[str, str | float]]:
    tiny.save(folder / "model")
    _write(folder / "train.jsonl", number, 0)
    _write(folder / "validation.jsonl", 1000, 1)
    _write(folder / "test.jsonl", evaluated, 2)
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(params(), file)
    _stage(folder, "fetch_model")
    alone = measured(["-c", _LOADED], folder)
    rows = [
        _row(folder, number, number, "fetch_data", alone),
    ]
    rows.append(_row(folder, number, number, "tokenize", alone))
    _stage(folder, "kv_prefix", "random")
    rows.append(_row(folder, number, STEPS * 8, "train", alone, *_VARIANT))
    rows.append(_row(folder, number, evaluated + 1000, "evaluate", alone, *_VARIANT))
    return rows


def _row(
    folder: Path, number: int, treated: int, stage: str, alone: Measured, *arguments: str
) -> dict[str, str | float]:
    found = _stage(folder, stage, *arguments)
    row: dict[str, str | float] = {
        "training examples": number,
        "stage": stage,
        "examples read": treated,
        "seconds": found.seconds,
        "processor seconds": found.processor_seconds,
        "anonymous memory above the model (MB)": found.anonymous_mb - alone.anonymous_mb,
        "resident pages above the model (MB)": found.resident_mb - alone.resident_mb,
    }
    click.echo(json.dumps(row))
    return row


def _stage(folder: Path, *arguments: str) -> Measured:
    return measured(["-m", "pipeline", *arguments], folder)


def _write(path: Path, number: int, seed: int) -> None:
    """Rows whose input and target together are `TOKENS` tokens with the end of the target."""
    draw = random.Random(seed)
    words = [tiny.word(place) for place in range(tiny.WORDS)]
    with path.open("w", encoding="utf-8") as file:
        for place in range(number):
            drawn = draw.choices(words, k=TOKENS - 1)
            row = {
                "id": f"{seed}-{place}",
                "text": " ".join(drawn[TARGET:]),
                "answer": " ".join(drawn[:TARGET]),
            }
            file.write(json.dumps(row) + "\n")


def params() -> dict[str, object]:
    """Those of a training on examples of `TOKENS` tokens."""
    files = {split: f"{split}.jsonl" for split in ("train", "validation", "test")}
    return {
        "model": {"source": "local", "path": "model", "dtype": "float32"},
        "data": {"source": "files", "path": ".", "files": files},
        "task": {
            "input_template": "{{ text }}",
            "target_template": " {{ answer }}",
            "use_chat_template": False,
            "max_length": TOKENS,
        },
        "initializations": {"random": {"type": "random", "path": "data/model/config.json"}},
        "sweep": {
            "lengths": [8],
            "initializations": ["random"],
            "seeds": [0],
            "train_sizes": [],
            "learning_rates": [],
            "in_context": [],
        },
        "kv_prefix": {"max_length": 16},
        "prefix": {"distractors": {"path": "data/model/config.json"}},
        "teachers": {},
        "train": {
            "objective": {"type": "target", "path": "data/tokenized/splits/train"},
            "learning_rate": 5e-3,
            "max_steps": STEPS,
            "epochs": None,
            "batch_size": 8,
            "eval_every_steps": STEPS,
        },
        "evaluate": {
            **{"splits": ["test"], "max_new_tokens": 2},
            "teacher": "data/model/config.json",
        },
        "baselines": {},
        "trained_baselines": {},
        "inspection": {},
        "report": {},
        "mlflow": {"experiment": "growth"},
    }
