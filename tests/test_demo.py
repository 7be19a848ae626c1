"""`python -m pipeline demo`: answers of one variant and of the bare model, a part of the sweep."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.config import Params
from pipeline.inference import side_by_side
from pipeline.inference.side_by_side import SideBySide
from pipeline.standing.first import soonest_to_tell
from pipeline.sweep.variants import Variant
from tests.conftest import Workspace, tiny_params
from tests.sweep_runs import VARIANTS


def line(text: str, prediction: str, loss: float) -> dict[str, Any]:
    match = float(prediction == "19.2 years")
    return {
        **{"input": text, "references": ["19.2 years"], "prediction": prediction},
        **{"loss": loss, "target_tokens": 2, "exact_match": match},
    }


demo = import_module("pipeline.cli.demo")  # `pipeline.cli.demo` is a module, `demo` a command in it
QUESTION = "A record of many lines.\n\nNicaragua: what is the mean age\nat birth?"


def test_answers_and_figures_stand_side_by_side() -> None:
    alone = [line(QUESTION, "It is " + "well " * 40, 6.0)] * 6
    prefixed = [line(QUESTION, "19.2 years", 1.0)] * 3 + [line(QUESTION, "", 1.0)] * 3
    shown = SideBySide(Variant(8, "text", 0), "test", alone, prefixed, ["exact_match"])
    first, *_ = blocks = shown.answers().split("\n\n")
    assert len(blocks) == 4
    question, reference, bare, with_prefix = first.splitlines()
    assert question == "Nicaragua: what is the mean age at birth?"
    assert reference == "  reference    19.2 years"
    assert bare.startswith("  model alone  It is well well")
    assert bare.endswith("well ...")
    assert with_prefix == "  with prefix  19.2 years  ✓"
    assert blocks[3].endswith("  with prefix  (nothing)")
    header, _, *rows = [row.split() for row in shown.figures().splitlines()]
    assert header == ["6", "questions", "of", "test", "loss", "exact", "match"]
    assert rows == [
        ["model", "alone", "3.000", "0.0%"],
        ["len8-text-seed0", "0.500", "50.0%"],
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("short", "short"),
        ("What a long review says.\n\nIs it good?", "What a long review says. Is it good?"),
        ("word " * 40 + "end?", "... " + "word " * 16 + "end?"),
    ],
)
def test_a_question_is_told_by_its_end(text: str, expected: str) -> None:
    rows = [line(text, "a", 1.0)]
    shown = SideBySide(Variant(8, "text", 0), "test", rows, rows, ["exact_match"]).answers()
    assert shown.splitlines()[0] == expected


@pytest.mark.parametrize("has_make", [True, False])
@pytest.mark.parametrize("kind", ["causal_lm", "seq_cls"])
def test_the_next_commands_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, has_make: bool
) -> None:
    """A project of `init` has no Makefile, and a classifier writes no text."""
    monkeypatch.chdir(tmp_path)
    if has_make:
        (tmp_path / "Makefile").touch()
    keys = tiny_params(tmp_path)
    keys["task"] |= {"type": kind, "use_chat_template": False, "system_prompt": None}
    keys["baselines"] = {}
    params = Params.model_validate(keys)
    variant = Variant(8, "text", 0)
    monkeypatch.setattr(demo, "load_params", lambda: params)
    monkeypatch.setattr(demo, "check_files", lambda _: [])
    monkeypatch.setattr(demo, "_repro", lambda _: None)
    monkeypatch.setattr(demo, "soonest_to_tell", lambda _: variant)
    rows = [line(QUESTION, "19.2 years", 1.0)]
    result = SideBySide(variant, "test", rows, rows, ["exact_match"])
    monkeypatch.setattr(side_by_side, "side_by_side", lambda *_: result)
    said = CliRunner().invoke(main, ["demo"]).stdout
    commands = [text.strip() for text in said.partition("Next:\n")[2].splitlines()[::2]]
    asking = ['python -m pipeline generate "..." --variant len8-text-seed0']
    assert commands == [
        *(("make repro", "make ui") if has_make else ("dvc repro", "python -m pipeline ui")),
        *(asking if kind == "causal_lm" else []),
    ]


STARTS = {
    "random": {"type": "random", "path": "data/model/config.json"},
    "examples": {"type": "demonstrations", "path": "data/raw/train.jsonl"},
    "written": {"type": "corpus_text", "path": "texts/corpus.txt"},
    "longer": {
        "type": "trained_variant",
        "path": f"data/train/{VARIANTS[0]}/prefix.safetensors",
    },
}


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        (["random", "examples", "written"], "len4-written-seed0"),
        (["random", "examples"], "len4-examples-seed0"),
        (["longer", "random"], "len4-random-seed0"),
    ],
)
def test_a_text_that_was_written_for_the_task_comes_first(starts: list[str], expected: str) -> None:
    params = tiny_params(Path("model"))
    params["initializations"] = {name: STARTS[name] for name in starts}
    params["sweep"] = {**params["sweep"], "initializations": starts}
    assert soonest_to_tell(Params.model_validate(params)).name == expected


@pytest.mark.real
def test_the_demo_is_the_first_part_of_the_sweep(copy: Workspace) -> None:
    copy.edit(lambda p: p["sweep"]["lengths"].append(6))
    shown = copy.pipeline("demo", "--questions", "3")
    assert "train@6-corpus-0" in shown.stderr
    assert "6-random" not in shown.stderr
    assert "Traceback" not in shown.stderr
    assert len(re.findall(r"^\w+.*\?$", shown.stdout, flags=re.MULTILINE)) == 3
    for name in ("reference", "model alone", "with prefix"):
        assert len(re.findall(f"^  {name} ", shown.stdout, flags=re.MULTILINE)) == 3
    assert re.search(r"^3 questions of test +loss +exact match", shown.stdout, re.MULTILINE)
    assert re.search(r"^len6-corpus-seed0 +\d", shown.stdout, re.MULTILINE)
    for command in ("dvc repro", "python -m pipeline ui", "generate"):
        assert command in shown.stdout
    assert "make " not in shown.stdout
    # Nothing is done twice, and the second call gives the same from what is there.
    again = copy.pipeline("demo", "--questions", "3")
    assert "train@6-corpus-0" not in again.stderr
    assert again.stdout == shown.stdout
    assert "up to date" in copy.run("dvc", "status", "train@6-corpus-0").stdout


@pytest.mark.real
def test_a_mistake_is_one_sentence(
    finished: Workspace, copy: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = finished.pipeline("demo", "--variant", "len9-corpus-seed0", check=False)
    assert unknown.returncode == 1
    assert "error: 'len9-corpus-seed0' is no variant of params.yaml; use one of:" in unknown.stderr
    (copy.root / "inputs" / "test.parquet").write_text("no table")
    broken = copy.pipeline("demo", check=False)
    assert broken.returncode == 1
    assert "Traceback" not in broken.stderr
    assert broken.stderr.strip().splitlines()[-1] == (
        "error: `dvc repro train@4-corpus-0` stopped, for the reason above; mend it and start the "
        "demo again: what is finished is kept"
    )
    assert "test.parquet" in broken.stderr
