"""The benchmark of GPUs runs in miniature on a CPU, with four libraries and no more."""

import json
import subprocess
import sys
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.cuda import speed
from benchmarks.cuda.__main__ import run
from benchmarks.cuda.exactness import Models, checks
from benchmarks.cuda.laws import laws
from benchmarks.cuda.machine import Machine
from benchmarks.cuda.models import SHAPES, config_of
from benchmarks.cuda.table import table
from tests.conftest import DEAR, ROOT

# What the pipeline needs and a borrowed machine has not.
_ABSENT = ("click", "datasets", "dvc", "mlflow", "pandas", "pydantic", "ruamel", "tabulate")

_WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({_ABSENT}))"


@DEAR
@pytest.mark.slow
def test_in_miniature(tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--small", "--shapes", "Llama-3.2-1B", "--lengths", "8"]
    code = f"{_WITHOUT}; import runpy; runpy.run_module('benchmarks.cuda', run_name='__main__')"
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    rows = {row["check"]: row for row in found["rows"]}
    assert found["card"] == "CPU"
    assert not any("error" in row for row in rows.values())
    for dtype in ("float32", "bfloat16", "float16"):
        assert rows[f"exact, {dtype}: packed as padded"]["equal tokens"]
    assert rows["exact, float32: packed as PEFT"]["equal tokens"] == "100%"
    assert float(rows["exact, float32: by operators"]["gradient"]) < 1e-4
    assert "does not serve cpu" in rows["exact, bfloat16: by varlen"]["skipped"]
    for system in ("packed", "PEFT"):
        assert rows[f"training, Llama-3.2-1B, p=8, 2 examples: {system}"]["tokens a second"] > 0
    for system in ("packed", "generate"):
        decoded = rows[f"decoding, Llama-3.2-1B, p=8, 2 rows of 4 tokens: {system}"]
        assert decoded["tokens a second"] > 0
    assert (tmp_path / "results.md").read_text().startswith("# On CPU\n")


@pytest.mark.slow
def test_it_is_imported_with_no_more() -> None:
    code = f"{_WITHOUT}; import benchmarks.cuda.__main__"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_in_float32_what_is_compared_is_equal() -> None:
    models = Models("cpu", small=True)
    compared = islice(chain(islice(laws(models), 1), checks(models)), 3)
    rows = {row["check"]: row for row in run(compared, 60, lambda: None)}
    assert list(rows) == [
        "exact, float32: identity with the text in the context",
        "exact, float32: packed as padded",
        "exact, float32: packed as PEFT",
    ]
    assert not any("error" in row for row in rows.values())
    assert rows["exact, float32: packed as PEFT"]["equal tokens"] == "100%"


def test_what_fails_is_a_row_and_stops_nothing() -> None:
    def fails() -> dict[str, Any]:
        raise RuntimeError("an illegal memory access\nwas encountered")

    found = run([("a, b", fails), ("a, c", lambda: {"x": 1})], 60, lambda: None)
    assert found[0]["error"] == "RuntimeError: an illegal memory access was encountered"
    assert found[1]["x"] == 1
    text = table("A card", found)
    assert text.startswith("# On A card\n\n| check | x |\n| --- | --- |\n| a, c | 1 |\n")
    assert "Failed:\n\n- a, b: RuntimeError: an illegal memory access was encountered" in text


def test_what_there_is_no_time_for_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the longest of its sort so far is what the next is thought to take."""
    now = [0.0]

    def lasts(seconds: float) -> Any:
        def check() -> dict[str, Any]:
            now[0] += seconds
            return {}

        return check

    monkeypatch.setattr("benchmarks.cuda.__main__.time.perf_counter", lambda: now[0])
    rows = [("a, 1", lasts(40)), ("a, 2", lasts(40)), ("b, 1", lasts(5)), ("b, 2", lasts(16))]
    found = run(rows, 60, lambda: None)
    left = [row["check"] for row in found if row.get("skipped") == "there is no time left for it"]
    assert left == ["a, 2"]
    assert "Left out:\n\n- a, 2: there is no time left" in table("A card", found)


def test_what_does_not_fit_at_once_is_cut_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def holds_two(*arguments: Any) -> dict[str, Any]:
        tried.append(arguments[4])
        if arguments[4] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"examples at once": arguments[4]}

    monkeypatch.setattr(speed, "_trained", holds_two)
    machine = Machine("cpu", small=True)
    found = speed.training(machine, "Llama-3.2-1B", 4, 16, speed.Ours)
    assert found == {"examples at once": 2}
    assert tried == [16, 8, 4, 2]


def test_shapes_have_the_parameters_of_their_names() -> None:
    import torch

    for shape, billions in (("Llama-3.2-1B", 1.236), ("Llama-3.1-8B", 8.030)):
        assert shape in SHAPES
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config_of(shape, small=False))
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(billions * 1e9, rel=1e-3)
        assert model.config.rope_parameters["rope_type"] == "llama3"
        assert model.config.rope_parameters["rope_theta"] == 500000.0
