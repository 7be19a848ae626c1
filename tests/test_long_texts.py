"""Texts of thousands of tokens: as many virtual tokens, and a corpus above the model's context."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import load_params
from pipeline.prefix import KVPrefix
from pipeline.stages import kv_prefix, self_study
from pipeline.storage.records import read_json, read_jsonl
from pipeline.workspace import paths
from tests.conftest import sweep_of, tiny_model, tiny_params, tiny_tokenizer
from tests.faults.training_folder import write_params
from tests.test_self_study_graph import STUDY

LONG = 8192


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a text of more than 8,192 tokens of this tokenizer."""
    monkeypatch.chdir(tmp_path)
    for name in ("texts", "questions"):
        Path(name).mkdir()
    lines = "".join(f"Line {number} names the value {number * 7 % 101}.\n" for number in range(300))
    Path("texts/corpus.txt").write_text(lines[: LONG + 100])
    return tmp_path


def written(folder: Path, **sections: Any) -> None:
    write_params(folder, tiny_params(paths.MODEL) | sections)


def test_thousands_of_virtual_tokens(folder: Path) -> None:
    model, tokenizer = tiny_model(max_position_embeddings=2 * LONG), tiny_tokenizer()
    model.save_pretrained(paths.MODEL)
    tokenizer.save_pretrained(paths.MODEL)
    written(folder, sweep=sweep_of([LONG], ["corpus"]), kv_prefix={"max_length": LONG})
    kv_prefix.run(load_params(), "corpus")
    kv = KVPrefix.load(paths.KV_PREFIX / "corpus" / "prefix.safetensors")
    assert len(kv) == LONG
    ids = read_json(paths.KV_PREFIX / "corpus" / "tokens.json")["tokens"]
    with torch.no_grad():
        cache: Any = model(torch.tensor([ids]), logits_to_keep=1).past_key_values
    for keys, values, layer in zip(kv.keys, kv.values, cache.layers, strict=True):
        torch.testing.assert_close(keys, layer.keys[0].cpu(), rtol=0, atol=1e-5)
        torch.testing.assert_close(values, layer.values[0].cpu(), rtol=0, atol=1e-5)


def test_a_corpus_above_the_context_is_studied_chunk_by_chunk(
    folder: Path, model_folder: Path
) -> None:
    shutil.copytree(model_folder, paths.MODEL)
    context = read_json(paths.MODEL / "config.json")["max_position_embeddings"]
    text = Path("texts/corpus.txt")
    text.write_text(text.read_text()[: 3 * context])
    short = {"questions_per_chunk": 1, "max_question_tokens": 4, "max_answer_tokens": 2}
    written(
        folder, self_study={"notes": STUDY | short | {"chunk_tokens": 256, "summary_tokens": None}}
    )
    self_study.run(load_params(), "notes")
    study = paths.SELF_STUDY / "notes"
    statistics = read_json(study / "statistics.json")
    assert statistics["tokens"] == 3 * context
    rows = [row for name in ("train", "validation") for row in read_jsonl(study / f"{name}.jsonl")]
    assert len(rows) == statistics["chunks"] >= 6
    # The end of the text is asked about as its beginning is.
    assert {row["chunk"] for row in rows} == set(range(statistics["chunks"]))
    assert "".join(row["context"] for row in rows).count("Line 0 ") == 1
