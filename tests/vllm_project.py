"""A project with prefixes that nobody trained, for what vLLM serves: a tiny model that chats."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from pipeline.config import Params
from pipeline.config.load import load_params
from pipeline.prefix import KVPrefix
from pipeline.serving.asked import named_prefixes
from pipeline.serving.vllm.folder import write_vllm_folder
from tests.conftest import tiny_model, tiny_tokenizer
from tests.task_runs import params_for

NAMES = ("len4-random-seed0", "len7-random-seed0")
VOCABULARY = 300


def chatting_tokenizer(spare: int = 12) -> PreTrainedTokenizerFast:
    """The tiny tokenizer, with special tokens that nothing else uses."""
    tokenizer = tiny_tokenizer()
    tokens = [f"<spare_{number}>" for number in range(spare)]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    return tokenizer


def drawn_prefix(length: int, seed: int = 0, layers: int = 2, **more: Any) -> KVPrefix:
    """A random prefix of the tiny model."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(2, length, 8, generator=generator) for _ in range(2 * layers)]
    return KVPrefix(tuple(drawn[:layers]), tuple(drawn[layers:]), **more)


def vllm_project(folder: Path, spare: int = 12, **task: Any) -> Params:
    """Params, model and prefixes in `folder`, the working directory."""
    chats = {"use_chat_template": True, "system_prompt": "Be brief.", **task}
    params_for(
        folder,
        "llama",
        "causal_lm",
        task=chats,
        sweep={"lengths": [4, 7], "initializations": ["random"]},
    )
    shutil.rmtree(folder / "model")
    for place in ("model", "data/model"):
        tiny_model(vocab_size=VOCABULARY).save_pretrained(folder / place)
        chatting_tokenizer(spare).save_pretrained(folder / place)
    for seed, name in enumerate(NAMES):
        path = folder / "data" / "train" / name / "prefix.safetensors"
        drawn_prefix(4 if "len4" in name else 7, seed).beginning_text(seed == 1).save(path)
    return load_params(folder / "params.yaml")


def write_folder(params: Params, names: Sequence[str], folder: Path) -> None:
    """The folder for vLLM of these prefixes."""
    write_vllm_folder(params, named_prefixes(params, names), folder)


def manifest_of(folder: Path) -> dict[str, Any]:
    """What a folder for vLLM says of its prefixes."""
    return dict(json.loads((folder / "prefixes.json").read_text()))
