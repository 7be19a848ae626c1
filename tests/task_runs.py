"""Tiny models, data and params of every task type, and the stages run on them."""

import json
import random
import string
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import BlenderbotSmallTokenizer, PreTrainedTokenizer

from pipeline.config import Params
from pipeline.config.load import load_params
from pipeline.stages import baselines, evaluate, fetch_data, fetch_model, kv_prefix, train
from pipeline.stages import tokenize as tokenize_stage
from pipeline.sweep.grid import sweep
from tests.conftest import tiny_model, tiny_params, tiny_tokenizer
from tests.prefix import multimodal
from tests.prefix.encoders import build

WORDS = ("red", "blue", "green", "one", "two", "three")
COLOURS = WORDS[:3]


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Words, each either a colour or a number, and which kind there is more of."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        words = draw.choices(WORDS, k=3)
        kinds = ["colour" if word in COLOURS else "number" for word in words]
        most = max(set(kinds), key=kinds.count)
        found.append({"text": " ".join(words), "kinds": kinds, "most": most})
    return found


TASKS: dict[str, dict[str, Any]] = {
    "causal_lm": {"input_template": "{{ text }}:", "target_template": " {{ most }}"},
    "seq2seq_lm": {"input_template": "{{ text }}", "target_template": "{{ most }}"},
    "seq_cls": {"input_template": "{{ text }}", "target_template": "{{ most }}"},
    "token_cls": {
        "input_template": "{{ text }}",
        "target_template": "{{ kinds | join(' ') }}",
    },
}
SLOW_VOCABULARY = (
    *("__null__", "__end__", "__start__", "__unk__", "name_or_path"),
    *(letter + end for letter in string.ascii_lowercase for end in ("", "@@")),
    *("re@@", "red"),
)
MODELS: dict[str, Callable[[], Any]] = {
    "t5": lambda: build("t5", vocab_size=260, pad_token_id=3, eos_token_id=2),
    "bart": lambda: build("bart", vocab_size=260, max_position_embeddings=128),
    "bert": lambda: build("bert", "ForMaskedLM", vocab_size=260, max_position_embeddings=128),
    "roberta": lambda: build("roberta", "ForMaskedLM", vocab_size=260, max_position_embeddings=128),
    "distilbert": lambda: build(
        "distilbert", "ForMaskedLM", vocab_size=260, max_position_embeddings=128
    ),
    "llama": tiny_model,
    "qwen2_5_vl": lambda: multimodal.build("qwen2_5_vl", 260),
    "gemma3": lambda: multimodal.build("gemma3", 260),
    "blenderbot-small": lambda: build(
        "blenderbot-small", vocab_size=len(SLOW_VOCABULARY), max_position_embeddings=128
    ),
}


def slow_tokenizer() -> PreTrainedTokenizer:
    """A tokenizer in Python, which has no tokenizer.json: letters, and `red` as one token."""
    vocabulary = {token: index for index, token in enumerate(SLOW_VOCABULARY)}
    files = {"vocab.json": json.dumps(vocabulary), "merges.txt": "#version: 0.2\nr e\nre d</w>\n"}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            Path(folder, name).write_text(text)
        return BlenderbotSmallTokenizer(*(str(Path(folder, name)) for name in files))


TOKENIZERS: dict[str, Callable[[], Any]] = {"blenderbot-small": slow_tokenizer}


def params_for(folder: Path, model: str, kind: str, **changes: Any) -> Params:
    """Params for a task type, in a folder with its model and data."""
    from ruamel.yaml import YAML

    MODELS[model]().save_pretrained(folder / "model")
    TOKENIZERS.get(model, tiny_tokenizer)().save_pretrained(folder / "model")
    (folder / "inputs").mkdir()
    for seed, (split, count) in enumerate({"train": 24, "validation": 6, "test": 9}.items()):
        lines = [json.dumps(row) for row in rows(count, seed)]
        (folder / "inputs" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "texts").mkdir()
    (folder / "texts" / "corpus.txt").write_text(" ".join(WORDS) * 3)
    params = tiny_params(folder / "model")
    params["data"]["files"] = {
        split: f"inputs/{split}.jsonl" for split in ("train", "validation", "test")
    }
    params["task"] = {"type": kind, "max_length": 64, **TASKS[kind]}
    demonstrations = {"type": "demonstrations", "path": "data/raw/train.jsonl", "max_examples": 24}
    words = {"type": "vocabulary", "path": "data/model/config.json"}
    params["initializations"] |= {"demonstrations": demonstrations, "words": words}
    params["sweep"] = {
        "lengths": [4],
        "initializations": ["random", "corpus", "demonstrations", "words"],
        "seeds": [0],
        "train_sizes": [],
        "learning_rates": [],
        "in_context": [],
    }
    for section, values in changes.items():
        params[section].update(values)
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(params, file)
    return load_params(folder / "params.yaml")


def run_stages(params: Params) -> None:
    """What `dvc repro` runs, in its order."""
    fetch_model.run(params)
    fetch_data.run(params)
    tokenize_stage.run(params)
    for name in params.initializations:
        kv_prefix.run(params, name)
    for variant in sweep(params):
        train.run(params, variant)
        evaluate.run(params, variant)
    for name in params.baselines:
        baselines.run(params, name)
