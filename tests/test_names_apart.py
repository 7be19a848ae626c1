"""A name that begins another name is never taken for it: of folders, outboxes, baselines."""

import json
from pathlib import Path

import pytest

from pipeline.config import load_params
from pipeline.config.params import Params
from pipeline.sweep.grid import all_rows
from pipeline.tracking.outbox import Outbox, pending
from pipeline.workspace.checkpoints import FILE, checkpoint_name, remove_checkpoints
from tests.conftest import ROOT

WHOLE = "len8-a-seed0"
# Each begins with the name above, or the name above with it.
OTHERS = (
    *("len8-a-seed0-train50", "len8-a-seed0-train500", "len8-a-seed01", "len8-a-seed0-0123"),
    *("len8-a-seed0-lr0.01", "len8-a-seed0-lr0.012", "len8-a-seed0-lr1e-05"),
    *("len88-a-seed0", "len8-a_b-seed0", "len8-aa-seed0"),
)
DIGEST = "0123456789abcdef" * 4


def test_a_finished_variant_leaves_the_checkpoints_of_others(tmp_path: Path) -> None:
    folders = {name: tmp_path / checkpoint_name(name, DIGEST) for name in (WHOLE, *OTHERS)}
    for folder in folders.values():
        folder.mkdir()
        (folder / FILE).write_bytes(b"interrupted")
    older = tmp_path / checkpoint_name(WHOLE, "f" * 64)
    older.mkdir()
    remove_checkpoints(tmp_path, WHOLE, keep=folders[WHOLE].name)
    assert not older.exists()
    assert all((folder / FILE).exists() for folder in folders.values())
    remove_checkpoints(tmp_path, WHOLE)
    assert not folders.pop(WHOLE).exists()
    assert all((folder / FILE).exists() for folder in folders.values())
    # Each of them is cleaned up by its own name.
    for name, folder in folders.items():
        remove_checkpoints(tmp_path, name)
        assert not folder.exists()


def test_without_checkpoints_there_is_nothing_to_remove(tmp_path: Path) -> None:
    remove_checkpoints(tmp_path / "none", WHOLE)


def test_an_outbox_is_of_one_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = {}
    for name in (*OTHERS, WHOLE):
        made[name] = Outbox.of_training(checkpoint_name(name, DIGEST))
        made[name].append("run", {})
    for name, outbox in made.items():
        assert [found.path for found in pending(name)] == [outbox.path]
        assert Outbox.of_training(checkpoint_name(name, DIGEST)).path == outbox.path
    assert len(pending()) == len(made)
    assert json.loads(made[WHOLE].path.read_text()) == {"run": {}}


def test_a_baseline_may_have_the_name_of_an_initialisation() -> None:
    """`sweep.in_context` gives rows of other names, `in_context_demonstrations-len8`."""
    values = load_params(ROOT / "params.yaml").model_dump()
    values["trained_baselines"] = {"demonstrations": {"type": "full_fine_tuning"}}
    params = Params.model_validate(values)
    names = [row.name for row in all_rows(params)]
    assert len(names) == len(set(names))
    assert "demonstrations-seed0" in names
    values["trained_baselines"] = {"in_context_demonstrations": {"type": "full_fine_tuning"}}
    with pytest.raises(ValueError, match="another baseline has this name"):
        Params.model_validate(values)
