"""A corpus through the graph: studied, held out, tokenized and trained on, as its edits ask for."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus.questions import normalized
from pipeline.storage.records import read_json, read_jsonl
from tests.conftest import Workspace, sweep_of
from tests.sweep_runs import ran

STUDY = {
    "path": "texts",
    "held_out": "questions",
    "chunk_tokens": 128,
    "questions_per_chunk": 8,
    "prompts": ["question", {"kind": "exam", "prompt": "Write an exam question."}],
    "max_question_tokens": 12,
    "max_answer_tokens": 8,
    "unfinished": "keep",
    "temperature": 2.0,
    "summary_tokens": 64,
}


def _with_a_corpus(params: dict[str, Any]) -> None:
    params["data"] = {"source": "corpus", "path": "data/self_study/notes"}
    params["self_study"] = {"notes": STUDY}
    params["task"] |= {
        "input_template": "{{ question }}",
        "target_template": "{{ answer }}",
        "empty": "drop",
    }
    params["sweep"] = sweep_of([2], ["corpus"])
    params["train"]["max_steps"] = 2
    summary = {"type": "in_context", "path": "data/self_study/notes/summary.txt", "max_tokens": 48}
    params["baselines"]["summary"] = summary


@pytest.mark.real
def test_a_prefix_is_trained_on_what_the_model_asked_itself(workspace: Workspace) -> None:
    workspace.edit(_with_a_corpus)
    questions = workspace.root / "questions"
    questions.mkdir()
    tests = [{"question": f"How many, {n}?", "answer": n} for n in range(3)]
    (questions / "test.jsonl").write_text("\n".join(map(json.dumps, tests)))
    (questions / "test_unseen.csv").write_text("question,answer\nWhy?,So\n")

    output = workspace.run("dvc", "repro", "train").stdout
    data = workspace.root / "data"
    study = data / "self_study" / "notes"
    train, validation = (read_jsonl(study / f"{name}.jsonl") for name in ("train", "validation"))
    statistics = read_json(study / "statistics.json")
    assert statistics["rows"] == {"train": len(train), "validation": len(validation)}
    assert statistics["chunks"] * 8 == statistics["questions_asked"]
    assert {row["kind"] for row in train} == {"question", "exam"}
    assert "tokens of chunks read and" in output
    assert "train: 0 of" in output
    raw = read_jsonl(data / "raw" / "train.jsonl")
    assert [row["id"] for row in raw] == [row["id"] for row in train]
    assert read_jsonl(data / "raw" / "test.jsonl")[0] == {
        **{"id": "test-0", "question": "How many, 0?", "answer": 0},
        **dict.fromkeys(("document", "chunk", "context", "kind")),
    }
    assert len(read_jsonl(data / "raw" / "test_unseen.jsonl")) == 1
    assert (data / "train" / "len2-corpus-seed0" / "prefix.safetensors").exists()
    assert "up to date" in workspace.run("dvc", "status", "train", "held_out").stdout

    workspace.run("dvc", "repro", "baselines@summary")
    summary = (study / "summary.txt").read_text()
    metrics = read_json(data / "evaluate" / "summary" / "metrics.json")
    assert metrics["context_tokens"] == min(48, len(summary) + 1) > 1

    # A question of the test that self-study asked: in no other split, and asked for nothing again.
    asked = validation[0]["question"].upper() + " ?"
    with (questions / "test.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"question": asked, "answer": "4"}))
    output = workspace.run("dvc", "repro", "fetch_data").stdout
    assert ran(output) == {"held_out@notes", "fetch_data"}
    left = {
        normalized(row["question"])
        for split in ("train", "validation")
        for row in read_jsonl(data / "raw" / f"{split}.jsonl")
    }
    assert normalized(asked) not in left
    assert f"validation: 1 of {len(validation)} questions are those of the test" in output

    # Forced, the same; killed before, what is finished is taken up.
    before = [path.read_bytes() for path in sorted(study.glob("*.*"))]
    kept = next((data / "checkpoints").glob("self_study.notes-*"))
    chunk = kept / "chunk-0.json"
    chunk.unlink()
    workspace.run("dvc", "repro", "--force", "--single-item", "self_study@notes")
    assert [path.read_bytes() for path in sorted(study.glob("*.*"))] == before
    assert chunk.exists()

    workspace.stand_in_for_stages()
    corpus = workspace.root / "texts" / "corpus.txt"
    for edit, expected in (
        (lambda: workspace.edit(lambda p: p.update(memory={"max_tokens_per_batch": 99})), set()),
        (
            lambda: corpus.write_text(corpus.read_text() + "More."),
            {"self_study@notes", "fetch_data", "tokenize", "kv_prefix@corpus", "train@2-corpus-0"},
        ),
        (
            lambda: workspace.edit(lambda p: p["self_study"]["notes"].update(seed=1)),
            {"self_study@notes", "fetch_data", "tokenize", "train@2-corpus-0"},
        ),
    ):
        workspace.run("dvc", "repro", "train")
        edit()
        assert ran(workspace.run("dvc", "repro", "train").stdout) == expected


def test_what_is_no_question_is_refused(tmp_path: Path) -> None:
    from pipeline.errors import PipelineError
    from pipeline.sources.held_out import write_held_out

    for content, sentence in (
        ('{"question": "a"}', "has no column 'answer'"),
        ('{"question": " ", "answer": "a"}', "row 1 of"),
        ('{"question": 3, "answer": "a"}', "has no question; add it, or leave the row out"),
    ):
        (tmp_path / "test.jsonl").write_text(content)
        for path in (tmp_path, tmp_path / "test.jsonl"):
            with pytest.raises(PipelineError, match=r"^self_study\.a\.held_out: ") as told:
                write_held_out(path, "self_study.a.held_out", tmp_path / "out")
            assert sentence in str(told.value)
            assert not (tmp_path / "out").exists()
    (tmp_path / "test.csv").write_text("question,answer\n")
    with pytest.raises(PipelineError, match="several files of the split test"):
        write_held_out(tmp_path, "k", tmp_path / "out")
    (tmp_path / "none").mkdir()
    with pytest.raises(PipelineError, match=r"has no test\.jsonl, test\.csv or the like"):
        write_held_out(tmp_path / "none", "k", tmp_path / "out")
