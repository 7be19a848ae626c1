"""The whole pipeline on a tiny model, with real DVC and a real MLflow store in SQLite."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from pipeline.orchestration.sweep import would_run
from pipeline.prefix import random_kv_prefix
from pipeline.storage.records import read_csv
from pipeline.tracking.results import SCORES
from tests.conftest import WHOLE_SWEEPS, Workspace, copied
from tests.sweep_runs import VARIANTS, client, ran, runs

pytestmark = pytest.mark.real


def test_every_stage_is_done_and_status_is_clean(finished: Workspace) -> None:
    assert "up to date" in finished.run("dvc", "status").stdout
    lock = YAML(typ="safe").load((finished.root / "dvc.lock").read_text())
    stages = {name.split("@")[0] for name in lock["stages"]}
    assert stages == {
        *("fetch_model", "fetch_data", "tokenize", "kv_prefix"),
        *("train", "evaluate", "baselines", "inspect", "report"),
    }


def test_the_summary_is_on_the_terminal(finished: Workspace) -> None:
    output = (finished.root / "first_output.txt").read_text()
    for name in [*VARIANTS, "no_prefix (baseline)"]:
        assert name in output


def test_a_current_run_for_each_variant(finished: Workspace) -> None:
    current = runs(finished, "tags.state = 'current' and tags.kind = 'variant'")
    assert sorted(run.data.tags["variant"] for run in current) == sorted(VARIANTS)
    (report_run,) = runs(finished, "tags.kind = 'sweep'")
    mlflow = client(finished)
    for run in current:
        assert run.info.status == "FINISHED"
        assert run.info.run_name == f"{run.data.tags['score']} · {run.data.tags['variant']}"
        assert "mlflow.parentRunId" not in run.data.tags
        assert run.data.tags["dvc_stage"].startswith("train@")
        assert len(run.data.tags["git_commit"]) == 40
        assert run.data.params["train.learning_rate"] == "0.005"
        assert run.data.metrics["test/loss"] > 0
        steps = mlflow.get_metric_history(run.info.run_id, "train/loss")
        assert [point.step for point in steps] == [1, 2, 3, 4]
        assert "train/tokens_per_second" in run.data.metrics
        assert {d.dataset.name for d in run.inputs.dataset_inputs} == {"train", "validation"}
        artifacts = {item.path for item in mlflow.list_artifacts(run.info.run_id)}
        assert {"prefix", "predictions.json", "scores.json", "history.csv"} <= artifacts
    report = {item.path for item in mlflow.list_artifacts(report_run.info.run_id, "report")}
    assert {"report/summary.csv", "report/plots"} <= report


def test_a_metric_says_what_no_other_says(finished: Workspace, tmp_path: Path) -> None:
    """Each is a chart in MLflow: what bounds, or restates, another one is none."""
    splits = ("measured_validation", "test")
    measured = ("loss", "exact_match", "token_f1", "bleu", "chrf", "rouge_l")
    scored = {f"{split}/{name}" for split in splits for name in measured}
    costs = {"cache_bytes", "time/first_token_ms"}
    costs |= {"time/evaluation_seconds", "time/decoding_tokens_per_second"}
    trained = {"trainable_parameters", "stored_bytes", "validation/initial_loss"}
    timed = {"time/training_seconds", "time/training_tokens_per_second"}
    steps = {f"train/{name}" for name in ("loss", "learning_rate", "gradient_norm")}
    steps |= {"train/tokens_per_second", "train/best_step", "validation/loss"}
    summary = read_csv(finished.root / "data" / "report" / "summary.csv").set_index("name")
    for run in runs(finished, "tags.kind = 'variant'"):
        assert set(run.data.metrics) == scored | costs | trained | timed | steps
        row = summary.loc[run.data.tags["variant"]]
        ends = f"[{row['test_loss_low']:.3f}, {row['test_loss_high']:.3f}]"
        assert run.data.tags["test/loss interval"] == ends
        kept = client(finished).download_artifacts(run.info.run_id, SCORES, str(tmp_path))
        table = json.loads(Path(kept).read_text())
        rows = [dict(zip(table["columns"], cells, strict=True)) for cells in table["data"]]
        (of_loss,) = (r for r in rows if (r["split"], r["metric"]) == ("test", "loss"))
        assert of_loss["low"] == pytest.approx(row["test_loss_low"])
    for run in runs(finished, "tags.kind = 'baseline'"):
        assert set(run.data.metrics) == scored | costs | {"trainable_parameters", "stored_bytes"}


def test_durations_are_the_trainings(finished: Workspace) -> None:
    """Not those of what was logged after it; what is not trained has none."""
    for run in runs(finished, "tags.kind = 'variant'"):
        seconds = (run.info.end_time - run.info.start_time) / 1000
        assert seconds >= run.data.metrics["time/training_seconds"] - 1
        measured = finished.root / "data" / "evaluate" / run.data.tags["variant"] / "metrics.json"
        assert run.info.end_time / 1000 < measured.stat().st_mtime
    others = runs(finished, "tags.kind != 'variant'")
    assert {run.data.tags["variant"] for run in others} == {"no_prefix", "sweep"}
    assert all(run.info.status == "FINISHED" and not run.info.end_time for run in others)


def test_outs_hold_no_path_of_the_machine(finished: Workspace) -> None:
    needles = [str(finished.root).encode(), finished.params["model"]["path"].encode()]
    for path in (finished.root / "data").rglob("*"):
        # No output: it says where the workspace last was, so that a copy of it is told apart.
        if path.is_file() and path.name != "workspace.json":
            content = path.read_bytes()
            assert not any(needle in content for needle in needles), path


def _add_length(workspace: Workspace) -> None:
    workspace.edit(lambda p: p["sweep"]["lengths"].append(3))


def _add_initialization(workspace: Workspace) -> None:
    def change(params: dict[str, Any]) -> None:
        params["initializations"]["other"] = {"type": "corpus_text", "path": "texts/other.txt"}
        params["sweep"]["initializations"].append("other")

    (workspace.root / "texts" / "other.txt").write_text("Another text about fields. " * 3)
    workspace.edit(change)


def _study_a_corpus(workspace: Workspace) -> None:
    study = {"path": "texts/corpus.txt", "held_out": "inputs/train.jsonl"}
    workspace.edit(lambda p: p.update(self_study={"notes": study}))


def _change_corpus(workspace: Workspace) -> None:
    (workspace.root / "texts" / "corpus.txt").write_text("A changed text about fields. " * 3)


def _quantize(workspace: Workspace) -> None:
    scheme = {"library": "torchao", "bits": 8}
    workspace.edit(lambda p: p["model"].update(quantization=scheme))


def _change_learning_rate(workspace: Workspace) -> None:
    workspace.edit(lambda p: p["train"].update(learning_rate=1e-3))


def _leave_out_states(workspace: Workspace) -> None:
    workspace.edit(lambda p: p["prefix"].update(kinds=["attention"]))


def _mix_in_distractors(workspace: Workspace) -> None:
    write_distractor(workspace.root / "others", 0)
    workspace.edit(lambda p: p["prefix"]["distractors"].update(path="others", count=1))


def _change_distractor(workspace: Workspace) -> None:
    _mix_in_distractors(workspace)
    workspace.stand_in_for_stages()
    workspace.run("dvc", "repro")
    write_distractor(workspace.root / "others", 1)


def write_distractor(folder: Path, seed: int) -> None:
    kv = random_kv_prefix([((2, 8), (2, 8))] * 2, 2, 1.0, torch.Generator().manual_seed(seed))
    kv.save(folder / "handbook.safetensors")


def _train_states_faster(workspace: Workspace) -> None:
    workspace.edit(lambda p: p["train"].update(state_learning_rate=1e-2))


def _add_teacher(workspace: Workspace) -> None:
    (workspace.root / "texts" / "rules.txt").write_text("Answer with the value alone.")
    workspace.edit(lambda p: p.update(teachers={"rules": {"path": "texts/rules.txt"}}))


def _distil(workspace: Workspace) -> None:
    _add_teacher(workspace)
    objective = {"type": "distillation", "teacher": "rules", "path": "data/teachers/rules"}
    workspace.edit(lambda p: p["train"].update(objective=objective))


def _change_generation(workspace: Workspace) -> None:
    workspace.edit(lambda p: p["evaluate"].update(max_new_tokens=5))


def _allow_memory(workspace: Workspace) -> None:
    workspace.edit(
        lambda p: p.update(memory={"max_tokens_per_batch": 8192, "max_tokens_together": 99})
    )


def _name_the_attention(workspace: Workspace) -> None:
    workspace.edit(lambda p: p.update(hardware={"attention": "operators"}))


def _train_in_processes(workspace: Workspace) -> None:
    hardware = {"processes": 2, "shard_frozen_model": True}
    workspace.edit(lambda p: p.update(hardware=hardware))


def _save_more_often(workspace: Workspace) -> None:
    workspace.edit(lambda p: p.update(checkpoints={"every_steps": 1}))


def _log_less(workspace: Workspace) -> None:
    workspace.edit(lambda p: p["mlflow"].update(log_every_steps=10))


def _add_training_size(workspace: Workspace) -> None:
    workspace.edit(lambda p: p["sweep"].update(train_sizes=[4]))


def _add_learning_rates(workspace: Workspace) -> None:
    path = workspace.root / "params.yaml"
    text = path.read_text()
    assert "learning_rates: []" in text
    # A rate has one name, however it is written.
    path.write_text(text.replace("learning_rates: []", "learning_rates: [1e-2, 0.000010]"))


def _add_baselines(workspace: Workspace) -> None:
    def change(params: dict[str, Any]) -> None:
        params["sweep"]["in_context"] = ["corpus"]
        params["trained_baselines"] = {"lora": {"type": "lora"}}

    workspace.edit(change)


def _change_plot(workspace: Workspace) -> None:
    workspace.edit(lambda p: p["report"].update(dpi=70))


def _look_at_more(workspace: Workspace) -> None:
    workspace.edit(lambda p: p["inspection"].update(examples=3))


def _reorder_lists(workspace: Workspace) -> None:
    workspace.edit(lambda p: p["sweep"]["lengths"].reverse())


def _add_comment(workspace: Workspace) -> None:
    path = workspace.root / "params.yaml"
    path.write_text("# A comment.\n" + path.read_text())


def _points(*lengths: int, names: tuple[str, ...] = ("random", "corpus")) -> set[str]:
    return {
        f"{stage}@{length}-{name}-0"
        for stage in ("train", "evaluate")
        for length in lengths
        for name in names
    }


EDITS: dict[str, tuple[Callable[[Workspace], None], set[str]]] = {
    "a length": (_add_length, {*_points(3), "inspect", "report"}),
    "a text-based initialisation": (
        _add_initialization,
        {"kv_prefix@other", *_points(2, 4, names=("other",)), "inspect", "report"},
    ),
    "a corpus text": (
        _change_corpus,
        {"kv_prefix@corpus", *_points(2, 4, names=("corpus",)), "inspect", "report"},
    ),
    "fewer bits": (
        _quantize,
        {
            *("fetch_model", "tokenize", "kv_prefix@random", "kv_prefix@corpus"),
            *_points(2, 4),
            *("baselines@no_prefix", "inspect", "report"),
        },
    ),
    "a corpus to study": (_study_a_corpus, {"self_study@notes", "held_out@notes"}),
    "a learning rate": (_change_learning_rate, {*_points(2, 4), "inspect", "report"}),
    # A baseline may be what variants of this prefix begin with, untrained.
    "the kinds of a prefix": (
        _leave_out_states,
        {*_points(2, 4), "baselines@no_prefix", "inspect", "report"},
    ),
    "distractors": (
        _mix_in_distractors,
        {*_points(2, 4), "baselines@no_prefix", "inspect", "report"},
    ),
    "a distractor": (_change_distractor, {*_points(2, 4), "inspect", "report"}),
    "the learning rate of states": (_train_states_faster, {*_points(2, 4), "inspect", "report"}),
    "a teacher": (_add_teacher, {"teach@rules"}),
    "an objective": (_distil, {"teach@rules", *_points(2, 4), "inspect", "report"}),
    "a generation setting": (
        _change_generation,
        {f"evaluate@{p}-{n}-0" for p in (2, 4) for n in ("random", "corpus")}
        | {"baselines@no_prefix", "inspect", "report"},
    ),
    "a training size": (
        _add_training_size,
        {
            f"{stage}_subset@{length}-{name}-0-4"
            for stage in ("train", "evaluate")
            for length in (2, 4)
            for name in ("random", "corpus")
        }
        | {"inspect", "report"},
    ),
    "further learning rates": (
        _add_learning_rates,
        {
            f"{stage}_at_rate@{length}-{name}-0-{rate}"
            for stage in ("train", "evaluate")
            for length in (2, 4)
            for name in ("random", "corpus")
            for rate in ("0.01", "1e-05")
        }
        | {"inspect", "report"},
    ),
    "baselines": (
        _add_baselines,
        {
            *("baseline_start@lora", "train_baseline@lora-0", "evaluate_baseline@lora-0"),
            *("in_context@2-corpus", "in_context@4-corpus", "inspect", "report"),
        },
    ),
    "the memory of a batch": (_allow_memory, set()),
    "how attention is computed": (_name_the_attention, set()),
    "how many processes train": (_train_in_processes, set()),
    "how often a training is saved": (_save_more_often, set()),
    "how often a step is logged": (_log_less, set()),
    "a plot setting": (_change_plot, {"inspect", "report"}),
    "the inputs that are looked at": (_look_at_more, {"inspect", "report"}),
    "the order of a list": (_reorder_lists, {"inspect", "report"}),
    "nothing but a comment": (_add_comment, set()),
}


# Of each kind of edit one, of which DVC itself runs the stages; `make test-all` has it run all.
BY_DVC = ("a corpus text", "a distractor", "an objective", "baselines", "nothing but a comment")


@pytest.mark.parametrize("name", EDITS if WHOLE_SWEEPS else BY_DVC)
def test_an_edit_runs_only_what_it_can_change(copy: Workspace, name: str) -> None:
    edit, expected = EDITS[name]
    edit(copy)
    # `dvc repro --dry` lists no stage below one that has not run; a stand-in shows them all.
    copy.stand_in_for_stages()
    output = copy.run("dvc", "repro").stdout
    assert ran(output) == expected
    assert "up to date" in copy.run("dvc", "status").stdout


@pytest.fixture(scope="module")
def planned(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A finished workspace, whose params and texts are put back after each test."""
    return copied(finished, tmp_path_factory.mktemp("planned") / "copy")


@contextmanager
def edited(workspace: Workspace, edit: Callable[[Workspace], None]) -> Iterator[None]:
    """Within it a workspace is edited."""
    before = {path: path.read_bytes() for path in _inputs(workspace)}
    edit(workspace)
    try:
        yield
    finally:
        for path in _inputs(workspace) - before.keys():
            path.unlink()
        for path, content in before.items():
            path.write_bytes(content)


def _inputs(workspace: Workspace) -> set[Path]:
    folders = (workspace.root / name for name in ("texts", "others"))
    return {workspace.root / "params.yaml", *(p for folder in folders for p in folder.rglob("*"))}


@pytest.mark.parametrize("name", [name for name in EDITS if name != "a distractor"])
def test_so_it_is_planned(planned: Workspace, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """By DVC's own answers to what has changed, for all edits, in this process."""
    edit, expected = EDITS[name]
    monkeypatch.chdir(planned.root)
    with edited(planned, edit):
        assert set(would_run((), force=False)) == expected


def test_without_an_edit_nothing_is_planned(
    planned: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the edits before have left is put back."""
    monkeypatch.chdir(planned.root)
    assert would_run((), force=False) == []
