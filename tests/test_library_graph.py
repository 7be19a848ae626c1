"""A library through the graph: a prefix a document, what several are worth, and questions to it."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.storage.records import read_json
from tests.conftest import Workspace
from tests.sweep_runs import ran

DOCUMENTS = {"kenya": 536, "norway": 25148}


def library() -> dict[str, Any]:
    """The section of two documents, which a random model asks itself a few questions about."""
    return {
        "documents": {name: f"documents/{name}.txt" for name in DOCUMENTS},
        "held_out": "questions",
        "self_study": {
            **{"chunk_tokens": 128, "questions_per_chunk": 4, "unfinished": "keep"},
            **{"max_question_tokens": 12, "max_answer_tokens": 6, "temperature": 2.0},
        },
        "prefix": {"length": 3},
        "train": {"max_steps": 4, "epochs": None, "batch_size": 2, "eval_every_steps": 2},
        "distractors": {"count": 1, "probability": 1.0},
        "together": {"pairs": {"count": 2}},
    }


def with_a_library(params: dict[str, Any]) -> None:
    """Edits params to those of a library."""
    params["library"] = library()
    params["task"] |= {
        **{"input_template": "{{ question }}", "target_template": "{{ answer }}"},
        "empty": "drop",
    }


def write_documents(root: Path) -> None:
    """Both documents; a person's own question about one of them."""
    for folder in ("documents", "questions"):
        (root / folder).mkdir()
    for name, coast in DOCUMENTS.items():
        text = f"{name} has a coast of {coast} km. " * 3
        (root / "documents" / f"{name}.txt").write_text(text)
    (root / "questions" / "kenya.csv").write_text("question,answer\nHow long is it?,536 km\n")


def of(stage: str) -> set[str]:
    return {f"{stage}@{name}" for name in DOCUMENTS}


@pytest.mark.real
def test_each_document_gets_a_prefix_that_stands_beside_others(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.edit(with_a_library)
    write_documents(workspace.root)
    output = workspace.run("dvc", "repro", "library_together").stdout
    trained = of("library_alone") | of("library_among")
    asked = of("library_study") | of("library_tokenize")
    assert ran(output) == {"fetch_model", *asked, *trained, "library_together@pairs"}
    folder = workspace.root / "data" / "library"
    assert "| kenya" in (folder / "together" / "pairs" / "losses.md").read_text()
    rows = read_json(folder / "together" / "pairs" / "losses.json")["documents"]
    assert [(row["document"], row["trained"]) for row in rows] == [
        (name, way) for name in DOCUMENTS for way in ("alone", "among")
    ]
    assert [row["questions"] for row in rows] == ["test", "test", "validation", "validation"]
    prefixes = {path: path.read_bytes() for path in sorted(folder.glob("*/*/prefix.safetensors"))}
    assert len(set(prefixes.values())) == len(prefixes) == 4

    monkeypatch.chdir(workspace.root)
    answered = CliRunner().invoke(main, ["ask", "The coast of Norway?", "--max-new-tokens", "4"])
    assert answered.exit_code == 0, answered.stderr
    assert answered.stderr.startswith("answering from norway (")

    workspace.stand_in_for_stages()
    for edit, expected in (
        (
            lambda: (workspace.root / "documents" / "kenya.txt").write_text("Kenya " * 20),
            {"library_study@kenya", "library_tokenize@kenya", "library_alone@kenya"}
            | of("library_among")
            | {"library_together@pairs"},
        ),
        (
            lambda: workspace.edit(lambda p: p["library"]["distractors"].update(probability=0.5)),
            {*of("library_among"), "library_together@pairs"},
        ),
    ):
        edit()
        assert ran(workspace.run("dvc", "repro", "library_together").stdout) == expected
