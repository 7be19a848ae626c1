"""A folder in which the stage `train` can run within a second: tiny model, tokenized splits."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.config import load_params
from pipeline.stages import fetch_data, fetch_model, kv_prefix, tokenize
from pipeline.sweep.variants import Variant
from pipeline.workspace import paths
from tests.conftest import CORPUS, rows, tiny_model, tiny_params, tiny_tokenizer

VARIANT = Variant(2, "corpus", 0)
OUTS = ("prefix.safetensors", "history.csv", "metrics.json")


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """The working folder for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def faulty_params(model_folder: Path) -> dict[str, Any]:
    """A training that draws random numbers (dropout), accumulates, validates and checkpoints."""
    params = tiny_params(model_folder)
    params["prefix"]["prefix_dropout"] = 0.1
    params["train"] |= {
        "max_steps": 24,
        "batch_size": 3,
        "gradient_accumulation_steps": 2,
        "eval_every_steps": 5,
        "schedule": "cosine",
        "warmup_steps": 2,
    }
    params["checkpoints"] = {"every_steps": 4}
    return params


def write_params(folder: Path, params: dict[str, Any]) -> None:
    """`params.yaml` of a folder."""
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(params, file)


def make_training_folder(folder: Path) -> None:
    """Every stage before `train`, run in this process."""
    import json

    import pandas as pd

    model_folder = folder / "inputs" / "model"
    tiny_model().save_pretrained(model_folder)
    tiny_tokenizer().save_pretrained(model_folder)
    inputs = folder / "inputs"
    lines = [json.dumps(row) for row in rows("train", 12)]
    (inputs / "train.jsonl").write_text("\n".join(lines) + "\n")
    pd.DataFrame(rows("validation", 4)).to_csv(inputs / "validation.csv", index=False)
    pd.DataFrame(rows("test", 5)).to_parquet(inputs / "test.parquet")
    (folder / "texts").mkdir()
    (folder / "texts" / "corpus.txt").write_text(CORPUS)
    write_params(folder, faulty_params(Path("inputs/model")))
    with working_in(folder):
        params = load_params()
        fetch_model.run(params)
        fetch_data.run(params)
        tokenize.run(params)
        kv_prefix.run(params, "corpus")


def outs(folder: Path) -> dict[str, bytes]:
    """The bytes of what the training wrote."""
    written = folder / paths.TRAIN / VARIANT.name
    return {path.name: path.read_bytes() for path in sorted(written.iterdir())}
