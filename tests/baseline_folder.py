"""A folder with tokenized splits in which a baseline can be measured."""

import json
from pathlib import Path
from typing import Any

from pipeline.config import load_params
from pipeline.models.for_baseline import ForBaseline
from pipeline.stages import fetch_data, fetch_model, tokenize
from tests.conftest import rows, tiny_model, tiny_params
from tests.faults.training_folder import write_params


def make_baseline_folder(
    root: Path, tokenizer: Any, is_chat: bool, text: str, baseline: dict[str, Any]
) -> ForBaseline:
    """`baselines.shown` of params.yaml is `baseline`, made from `text` in said.txt."""
    tiny_model(vocab_size=300).save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    (root / "inputs").mkdir()
    for split, count in {"train": 12, "validation": 3, "test": 4}.items():
        lines = [json.dumps(row) for row in rows(split, count)]
        (root / "inputs" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (root / "said.txt").write_text(text)
    params = tiny_params(root / "model")
    params["data"]["files"] = {s: f"inputs/{s}.jsonl" for s in ("train", "validation", "test")}
    params["task"]["use_chat_template"] = is_chat
    params["initializations"].pop("corpus")
    params["sweep"]["initializations"] = ["random"]
    params["evaluate"]["device"] = "cpu"
    params["baselines"] = {"shown": {"path": "said.txt", **baseline}}
    write_params(root, params)
    loaded = load_params()
    fetch_model.run(loaded)
    fetch_data.run(loaded)
    tokenize.run(loaded)
    return ForBaseline(loaded)
