"""A bounded part of the data is held, whatever there is of it, and checkpoints stop no step."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import load_params
from pipeline.data.beginning import following
from pipeline.data.example import TokenizedExample
from pipeline.data.portions import portions
from pipeline.data.rows import TokenizedRows
from pipeline.data.seen import Seen
from pipeline.data.splits import load_split, save_splits
from pipeline.stages import evaluate, train
from pipeline.storage.records import read_json, read_jsonl
from pipeline.training.checkpoint import Checkpoint, CheckpointFolder
from pipeline.workspace.checkpoints import FILE
from tests.conftest import ROOT
from tests.faults.training_folder import VARIANT, make_training_folder, working_in

COLUMNS = ["input_ids", "target_start", "positions", "turns"]

FULL = {"input_ids": [1], "target_start": 1, "positions": [1], "beginning": 1, "turns": "x"}

rows = st.lists(
    st.fixed_dictionaries(
        {
            "input_ids": st.lists(st.integers(0, 2**31 - 1), max_size=5),
            "target_start": st.integers(0, 9),
            "positions": st.none() | st.lists(st.integers(0, 9), max_size=3),
            "beginning": st.integers(0, 1),
            "turns": st.none() | st.text(st.characters(codec="utf-8"), max_size=3),
        }
    ),
    min_size=1,
    max_size=9,
)


@settings(max_examples=40, deadline=None)
@given(rows, st.data())
def test_rows_are_those_of_the_list(given: list[dict[str, Any]], data: st.DataObject) -> None:
    features = Dataset.from_list([FULL]).features
    cut = data.draw(st.integers(0, len(given)))
    # Two chunks where there are rows for them, of which the first and the last may be cut.
    parts = [part for part in (given[:cut], given[cut:]) if part]
    split = concatenate_datasets([Dataset.from_list(part, features=features) for part in parts])
    chosen = data.draw(st.lists(st.integers(0, len(split) - 1), min_size=1))
    for some in (split, split.select(range(chosen[0], len(split))), split.select(chosen)):
        expected = some.select_columns(COLUMNS).to_list()
        found = TokenizedRows(some, COLUMNS)
        assert list(found) == expected
        assert found[-1] == expected[-1]
        assert found[1:] == expected[1:]
        assert list(found.select([0])) == expected[:1]
        assert found.tokens.tolist() == [len(row["input_ids"]) for row in expected]
        assert found.target_starts.tolist() == [row["target_start"] for row in expected]


def examples(count: int) -> Iterator[TokenizedExample]:
    for number in range(count):
        text = f"{number} é\u2028"
        yield {
            "id": str(number),
            "input_ids": [7, *range(number % 50), 9],
            "target_start": 1 + number % 50,
            "input": text,
            "target": "x",
            "references": ["x", text],
            "beginning": 1,
        }


def test_splits_are_written_as_they_come_with_the_same_bytes(tmp_path: Path) -> None:
    for name, made in (("list", list(examples(2500))), ("iterator", examples(2500))):
        save_splits({"train": made}, tmp_path / name)
    files = {path.name for path in (tmp_path / "list" / "train").iterdir()}
    for file in files:
        first, second = ((tmp_path / n / "train" / file).read_bytes() for n in ("list", "iterator"))
        assert first == second
    split = load_split(tmp_path / "list", "train")
    assert split.to_list() == list(examples(2500))
    rest = following(split, True)
    assert len(rest) == 2500
    assert rest[51] == {**split[51], "input_ids": [0, 9], "target_start": 1, "beginning": 0}
    save_splits({"train": examples(2499)}, tmp_path / "fewer")
    assert load_split(tmp_path / "fewer", "train")._fingerprint != split._fingerprint


def test_digests_tell_texts_apart() -> None:
    seen = Seen()
    assert seen.are_distinct()
    for text in ("a", "b", "", "\ud800"):
        seen.add(text)
    assert seen.are_distinct()
    assert "b" in seen
    assert "c" not in seen
    again = Seen()
    for text in ("a", "b", "a"):
        again.add(text)
    assert not again.are_distinct()


_HOLDING = """
import resource, sys
from pathlib import Path
from pipeline.data.batching import training_order
from pipeline.data.rows import TokenizedRows
from pipeline.data.splits import load_split, save_splits

def example(number):
    ids = [(number * 300 + place) % 50000 for place in range(300)]
    text = str(number) * 200
    return {"id": str(number), "input_ids": ids, "target_start": 280, "input": text,
            "target": "x", "references": ["x"]}

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

folder, count = Path(sys.argv[1]), int(sys.argv[2])
before = peak()
save_splits({"train": (example(number) for number in range(count))}, folder)
rows = TokenizedRows(load_split(folder, "train"), ["input_ids", "target_start"])
total = sum(len(rows[place]["input_ids"]) for batch in training_order(count, 8, 0, count)
            for place in batch)
assert total == 300 * count == rows.tokens.sum()
print(peak() - before)
"""


def test_rows_are_not_held(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLDING, str(tmp_path / "splits"), "30000"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    # As lists they take 320 MB; the file, every page of which is met, has 70.
    assert float(result.stdout) < 160


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("scale")
    make_training_folder(folder)
    with pytest.MonkeyPatch.context() as patch, working_in(folder):
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        train.run(load_params(), VARIANT)
        yield folder


def test_a_split_in_portions_is_measured_as_the_whole(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for size in (100, 2):
        monkeypatch.setattr("pipeline.evaluation.measure.portions", partial(portions, size=size))
        evaluate.run(load_params(), VARIANT)
        folder = trained / "data/evaluate" / VARIANT.name
        found.append((read_jsonl(folder / "predictions.jsonl"), read_json(folder / "metrics.json")))
    (whole, metrics), (parts, metrics_of_parts) = found
    for one, other in zip(whole, parts, strict=True):
        assert {**one, "loss": pytest.approx(one["loss"], rel=1e-5)} == other
    for split in ("validation", "test"):
        assert metrics_of_parts[split] == pytest.approx(metrics[split], rel=1e-5)


class Slow:
    """A disk that writes no checkpoint before it is told to."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.may_write = threading.Event()
        self.begun: list[int] = []
        save = Checkpoint.save

        def slow(checkpoint: Checkpoint, path: Path, digest: str) -> None:
            self.begun.append(checkpoint.state["n"])
            assert self.may_write.wait(20)
            save(checkpoint, path, digest)

        patch.setattr(Checkpoint, "save", slow)


def test_a_checkpoint_is_written_aside_and_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Slow(monkeypatch)
    folder = CheckpointFolder(tmp_path / "x", "digest", 1)
    weight = torch.zeros(3)
    folder.save_aside(Checkpoint({"w": weight}, {"n": 1}))
    # The training goes on: what is written is as it was, and the next one is passed over.
    weight += 1
    folder.save_aside(Checkpoint({"w": weight}, {"n": 2}))
    assert not (tmp_path / "x" / FILE).exists()
    disk.may_write.set()
    folder.wait()
    kept = folder.load()
    assert kept is not None
    assert (kept.state, kept.tensors["w"].tolist()) == ({"n": 1}, [0, 0, 0])
    # The last one waits for the one before, and is there when it returns.
    folder.save_aside(Checkpoint({"w": weight}, {"n": 3}))
    assert folder.save(Checkpoint({"w": weight}, {"n": 4}))
    assert disk.begun == [1, 3, 4]
    last = folder.load()
    assert last is not None
    assert last.state == {"n": 4}


def test_a_disk_that_refuses_a_checkpoint_aside_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").write_text("no folder")
    folder = CheckpointFolder(tmp_path / "x", "digest", 1)
    folder.save_aside(Checkpoint({"w": torch.zeros(3)}))
    folder.wait()
    assert "warning: no checkpoint kept" in capsys.readouterr().out


def test_what_else_goes_wrong_aside_is_raised_where_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise ValueError("no tensor")

    monkeypatch.setattr(Checkpoint, "save", failing)
    folder = CheckpointFolder(tmp_path / "x", "digest", 1)
    with pytest.raises(ValueError, match="no tensor"), folder.locked():
        folder.save_aside(Checkpoint({}))
    folder.wait()


def test_lines_of_a_file_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(3)) + "\n\n")
    assert read_jsonl(path) == [{"n": 0}, {"n": 1}, {"n": 2}]
