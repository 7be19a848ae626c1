"""Chunks of a corpus before each input: which they are, and what the model is measured on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.retrieval import Retriever
from pipeline.data.splits import load_split
from pipeline.errors import PipelineError
from pipeline.models.for_baseline import ForBaseline
from pipeline.stages import baselines
from pipeline.storage.records import read_json, read_jsonl
from pipeline.workspace import paths
from tests.baseline_folder import make_baseline_folder
from tests.conftest import rows, tiny_tokenizer

WORDS = st.lists(st.sampled_from(["ab", "é", "中", "7", "size", "of", "x1"]), max_size=6).map(
    " ".join
)


@given(st.lists(WORDS, min_size=1, max_size=6), WORDS, st.integers(1, 8))
def test_texts_with_the_words_of_a_question_come_first(
    texts: list[str], question: str, count: int
) -> None:
    found = Retriever(texts).best(question, count)
    assert len(found) == len(set(found)) == min(count, len(texts))
    asked = set(question.split())
    shares = [bool(asked & set(text.split())) for text in texts]
    assert [shares[place] for place in found] == sorted(
        (shares[place] for place in found), reverse=True
    )
    if not any(shares):
        assert found == list(range(len(found)))


def test_a_rare_word_tells_more_than_a_frequent_one() -> None:
    texts = ["the area of land", "the area of water", "the capital"]
    assert Retriever(texts).best("What is the area of WATER?", 3) == [1, 0, 2]
    assert Retriever(["of 7 and", "of 8 and"]).best("8", 1) == [1]
    assert Retriever(["", "..."]).best("word", 1) == [0]


CORPUS = "\n\n".join(f"The {row['key']} has a {row['record']}." for row in rows("test", 4))


def finished(root: Path, is_chat: bool, **retrieval: Any) -> ForBaseline:
    baseline = {"type": "retrieval", "chunk_tokens": 40, **retrieval}
    return make_baseline_folder(root, tiny_tokenizer(), is_chat, CORPUS, baseline)


@pytest.mark.slow
@pytest.mark.parametrize("is_chat", [False, True])
def test_the_stage_measures_each_input_after_its_own_chunks(
    is_chat: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    context = finished(tmp_path, is_chat, chunks=[1, 2, 9])
    baselines.run(context.params, "shown")
    metrics = read_json(paths.EVALUATE / "shown" / "metrics.json")
    chunks = CORPUS.split("\n\n")
    assert metrics["stored_bytes"] == 4 * len(context.tokenizer.encode(CORPUS))
    assert metrics["cache_bytes"] == 0
    # 9 are all that there are.
    assert metrics["chunks"] in (1, 2, len(chunks))
    splits = {n: load_split(paths.TOKENIZED / "splits", n) for n in ("validation", "test")}

    def prompt(asked: str, number: int) -> list[int]:
        best = sorted(Retriever(chunks).best(asked, number))
        text = "\n\n".join(chunks[place] for place in best)
        if not is_chat:
            return list(context.tokenizer.encode(f"{text}\n\n{asked}"))
        turns = [{"role": "system", "content": text}, {"role": "user", "content": asked}]
        rendered = context.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        return list(context.tokenizer.encode(rendered))

    def losses(split: str, number: int) -> list[float]:
        found = []
        for row in splits[split]:
            target = row["input_ids"][row["target_start"] :]
            ids = torch.tensor([[*prompt(row["input"], number), *target]])
            with torch.no_grad():
                logits = context.frozen_model(ids).logits[0, -len(target) - 1 : -1]
            loss = torch.nn.functional.cross_entropy(
                logits, ids[0, -len(target) :], reduction="sum"
            )
            found.append(loss.item())
        return found

    by_validation = {number: sum(losses("validation", number)) for number in (1, 2, 4)}
    assert metrics["chunks"] == min(by_validation, key=lambda number: by_validation[number])
    lines = read_jsonl(paths.EVALUATE / "shown" / "predictions.jsonl")
    for split in splits:
        measured = [line["loss"] for line in lines if line["split"] == split]
        assert measured == pytest.approx(losses(split, metrics["chunks"]), rel=1e-4)
    own = [(row["target_start"], prompt(row["input"], metrics["chunks"]))
           for split in splits.values() for row in split]  # fmt: skip
    more = sum(len(ids) - start for start, ids in own) / len(own)
    assert metrics["context_tokens"] == round(more)


@pytest.mark.slow
def test_chunks_that_leave_no_room_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    context = finished(tmp_path, False, chunks=[4])
    monkeypatch.setattr(context.frozen_model.config, "max_position_embeddings", 100)
    (definition,) = context.params.baselines.values()
    (before,) = definition.choices(context)
    assert before.follow is not None
    with pytest.raises(PipelineError, match="more than the model's context of 100 positions"):
        before.follow(context.splits[0])
