"""The notebooks run from top to bottom, show what their text says, and keep what they printed."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest

from pipeline.storage.records import read_csv
from tests.conftest import CORPUS, ROOT, Workspace
from tests.notebooks import DIGEST, NOTEBOOKS, digest, execute, printed


@pytest.mark.slow
def test_a_prefix_is_trained_saved_and_loaded(tmp_path: Path, model_folder: Path) -> None:
    """With a tiny random model: the loss falls, the weights stay, PEFT computes the same."""
    (tmp_path / "params.yaml").touch()
    (tmp_path / "pipeline").symlink_to(ROOT / "pipeline")
    shutil.copytree(model_folder, tmp_path / "data" / "model")
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "reading_records.txt").write_text(CORPUS)
    (tmp_path / "data" / "raw").mkdir()
    for split, count in (("train", 12), ("test", 5)):
        rows = [
            {"record": f"size: {n} km", "question": "size?", "answer": f"{n} km"}
            for n in range(count)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / "raw" / f"{split}.jsonl").write_text(lines)

    asked = (
        "moved = (trained.keys[0] - start.keys[0]).abs().max().item()\n"
        "seen = (with_prefix - frozen_model(asked).logits).abs().max().item()\n"
        "same = all(map(torch.equal, again.kv_prefix().keys, trained.keys))\n"
        "print(json.dumps([losses, [difference, peft_difference], [moved, seen],"
        " [same, unchanged, same_answers], [len(after), len(trained), trainable]]))"
    )
    told = printed(execute("train_a_prefix.ipynb", tmp_path, asked)).splitlines()[-1]
    losses, none, some, true, counts = json.loads(told)
    assert len(losses) == 30
    # Three batches of eight are twice the twelve examples.
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.05
    assert max(none) < 1e-4
    assert min(some) > 1e-3
    assert true == [True, True, True]
    # Two layers, keys and values, two heads of eight.
    assert counts == [5, 32, 32 * 2 * 2 * 2 * 8]


@pytest.mark.real
def test_a_finished_sweep_is_read(copy: Workspace) -> None:
    """Its tables are those of the report and of MLflow, and the best prefix answers as measured."""
    asked = (
        "import json\n"
        "print(json.dumps([best['name'], rival['name'], summary.name.tolist(), answer,"
        " example.prediction, dict(zip(logged.name, logged['test loss'])), len(validation),"
        " len(beside), len(kv)]))"
    )
    notebook = execute("read_a_sweep.ipynb", copy.root, asked)
    told = json.loads(printed(notebook).splitlines()[-1])
    best, rival, names, answer, prediction, logged, validations, examples, length = told
    summary = read_csv(copy.root / "data" / "report" / "summary.csv")
    assert names == summary["name"].tolist()
    assert best == summary.loc[summary["is_best"], "name"].item()
    assert rival == "no_prefix"
    assert logged == pytest.approx(dict(zip(names, summary["test_loss"], strict=True)))
    assert answer == prediction
    # Four trainings of four steps, validated before, in between and at the end; five test examples.
    assert (validations, examples) == (4 * 3, 5)
    assert f"len{length}-" in best
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_what_is_kept_was_printed_by_this_code(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.get(DIGEST) == digest(notebook), "run `make notebooks` again"
    shown = [cell for cell in notebook.cells if cell.get("outputs")]
    assert len(shown) > 5
    assert not [o for cell in shown for o in cell.outputs if o.output_type == "error"]
