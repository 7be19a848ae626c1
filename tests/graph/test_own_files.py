"""The user's own files are dependencies: an edit of one is noticed, its absence is forgiven."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import DEAR, Workspace, sweep_of
from tests.sweep_runs import ran

pytestmark = pytest.mark.real

EVERY_STAGE = {
    *("fetch_data", "tokenize", "baselines@no_prefix", "inspect", "report"),
    *(f"train@{p}-{name}-0" for p in (2, 4) for name in ("random", "corpus")),
    *(f"evaluate@{p}-{name}-0" for p in (2, 4) for name in ("random", "corpus")),
}


def committed(workspace: Workspace) -> None:
    workspace.run("git", "add", "-A", ".", ":!first_output.txt")
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    workspace.run("git", *identity, "commit", "-qm", "a sweep")


@DEAR
def test_an_answer_that_changes_in_the_training_file(copy: Workspace) -> None:
    path = copy.root / "inputs" / "train.jsonl"
    lines = path.read_text().splitlines()
    # As long as before: what DVC goes by is not the size.
    changed = {**json.loads(lines[0]), "value": "9 km"}
    path.write_text("\n".join([json.dumps(changed), *lines[1:]]) + "\n")
    assert "inputs" in copy.run("dvc", "status", "fetch_data").stdout
    assert "fetch_data" in ran(copy.run("dvc", "repro", "--dry").stdout)
    assert ran(copy.run("dvc", "repro", "--dry", "--force-downstream").stdout) >= EVERY_STAGE
    copy.stand_in_for_stages()
    assert ran(copy.run("dvc", "repro").stdout) == EVERY_STAGE
    assert "up to date" in copy.run("dvc", "status").stdout


def test_a_weight_that_changes_in_the_model_folder(copy: Workspace) -> None:
    own = copy.root / "own-model"
    shutil.copytree(copy.params["model"]["path"], own)
    copy.edit(lambda params: params["model"].update(path="own-model"))
    copy.run("dvc", "repro")
    content = bytearray((own / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (own / "model.safetensors").write_bytes(content)
    assert ran(copy.run("dvc", "repro", "--dry").stdout) == {"fetch_model"}


def test_a_clone_without_them_runs_the_later_stages(copy: Workspace, tmp_path: Path) -> None:
    with (copy.root / ".gitignore").open("a") as file:
        file.write("/inputs/\n")
    copy.run("git", "rm", "-rq", "--cached", "inputs")
    copy.run("dvc", "remote", "add", "--default", "shared", str(tmp_path / "remote"))
    committed(copy)
    copy.run("dvc", "push")
    clone = Workspace(tmp_path / "clone")
    copy.run("git", "clone", "-q", str(copy.root), str(clone.root))
    clone.run("dvc", "pull")
    assert not (clone.root / "inputs").exists()
    assert ran(clone.run("dvc", "repro", "--allow-missing").stdout) == set()
    clone.edit(lambda params: params["evaluate"].update(max_new_tokens=3))
    assert "params.yaml is valid" in clone.pipeline("check").stdout
    found = ran(clone.run("dvc", "repro", "--allow-missing", "evaluate@2-corpus-0").stdout)
    assert found == {"evaluate@2-corpus-0"}
    # A stage that has to read them says so.
    clone.edit(lambda params: params["data"].update(seed=1))
    refused = clone.pipeline("check", check=False)
    assert "data.path: there is nothing at 'inputs'" in refused.stderr


def test_a_temporary_workspace_runs_the_later_stages(copy: Workspace) -> None:
    copy.edit(lambda params: params.update(sweep=sweep_of([2], ["corpus"])))
    with (copy.root / ".gitignore").open("a") as file:
        file.write("/inputs/\n")
    copy.run("git", "rm", "-rq", "--cached", "inputs")
    committed(copy)
    rate = "train.learning_rate=1e-3"
    output = copy.run("dvc", "exp", "run", "--temp", "--allow-missing", "-S", rate)
    assert "train@2-corpus-0" in ran(output.stdout + output.stderr)
    assert "fetch_data" not in ran(output.stdout + output.stderr)


def test_a_report_without_baselines(copy: Workspace) -> None:
    def change(params: dict[str, object]) -> None:
        params.update(sweep=sweep_of([2], ["random"]), baselines={})

    copy.edit(change)
    assert ran(copy.run("dvc", "repro").stdout) == {"inspect", "report"}
    assert "len2-random-seed0" in (copy.root / "data/report/summary.md").read_text()
    assert "up to date" in copy.run("dvc", "status").stdout
