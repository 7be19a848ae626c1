"""What DVC's own commands show of a finished sweep: metrics, plots, experiments, the artifact."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import vl_convert

from pipeline.models.adapter import read_adapter
from pipeline.prefix import KVPrefix
from tests.conftest import DEAR, Workspace
from tests.sweep_runs import VARIANTS

pytestmark = pytest.mark.real

IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@localhost")
ROWS = [*VARIANTS, "no_prefix"]
COLUMNS = ["bleu", "chrf", "exact_match", "loss", "rouge_l", "token_f1", "validation_loss"]
# What the readme gives as the way to compare experiments.
SHOW = ("dvc", "exp", "show", "--only-changed", "--drop", ".*/")


def commit(workspace: Workspace) -> None:
    workspace.run("git", "add", "-A")
    workspace.run("git", *IDENTITY, "commit", "-qm", "done")


def drawn(workspace: Workspace, *command: str) -> dict[str, str]:
    """The plots of DVC's page as SVG, drawn by the release of Vega-Lite nearest to the page's."""
    found = json.loads(workspace.run("dvc", "plots", *command, "--json").stdout)
    assert "errors" not in found
    pictures = {}
    for path, plots in found["data"].items():
        (plot,) = plots
        spec: Any = plot["content"]
        spec = json.loads(spec) if isinstance(spec, str) else spec
        pictures[Path(path).name] = vl_convert.vegalite_to_svg(spec, vl_version="5.8")
    return pictures


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]+)</text>", svg)


def test_metrics_show_has_a_row_a_variant_and_a_baseline(finished: Workspace) -> None:
    header, *lines = finished.run("dvc", "metrics", "show").stdout.rstrip("\n").splitlines()
    assert header.split() == ["Path", *COLUMNS]
    assert max(map(len, (header, *lines))) <= 120
    rows = {path: scores for path, *scores in (line.split() for line in lines)}
    assert sorted(rows) == sorted(f"data/dvc/{name}.json" for name in ROWS)
    for name in ROWS:
        measured = json.loads((finished.root / "data/evaluate" / name / "metrics.json").read_text())
        scores = dict(zip(COLUMNS, map(float, rows[f"data/dvc/{name}.json"]), strict=True))
        assert scores.pop("validation_loss") == round(measured["validation"]["loss"], 4)
        expected = {key: round(measured["test"][key], 4) for key in scores}
        assert scores == pytest.approx(expected, abs=0.005)
        assert scores["loss"] == expected["loss"]


def test_plots_show_draws_three_plots_of_everything(finished: Workspace) -> None:
    pictures = {name: words(svg) for name, svg in drawn(finished, "show").items()}
    assert list(pictures) == ["scores.csv", "loss_curves.csv", "loss_by_length.csv"]
    assert "Every variant and baseline, best on validation first" in pictures["scores.csv"]
    assert {*VARIANTS, "no_prefix (baseline)"} <= set(pictures["scores.csv"])
    assert "validation: loss (nats per target token)" in pictures["scores.csv"]
    for name in ("loss_curves.csv", "loss_by_length.csv"):
        # Legend, in the order that gives both the same colours.
        at = [pictures[name].index(series) for series in ("random", "corpus")]
        assert at == sorted(at)
        assert "prefix length (virtual tokens)" in pictures[name]
        assert "loss (nats per target token)" in pictures[name]
        assert {"2", "4"} <= set(pictures[name])
    assert {"training (mean of 10 steps)", "validation"} <= set(pictures["loss_curves.csv"])


def test_curves_are_those_of_the_histories(finished: Workspace) -> None:
    curves = pd.read_csv(finished.root / "data/report/loss_curves.csv")
    history = pd.read_csv(finished.root / "data/train/len4-corpus-seed0/history.csv")
    own = curves[(curves["length"] == 4) & (curves["initialization"] == "corpus")]
    losses = {key: group.set_index("step")["loss"] for key, group in own.groupby("split")}
    validated = history.dropna(subset="validation/loss")
    assert losses["validation"].to_dict() == pytest.approx(
        dict(zip(validated["step"], validated["validation/loss"], strict=True))
    )
    trained = losses["training (mean of 10 steps)"]
    assert list(trained.index) == [1, 2, 3, 4]
    assert trained[4] == pytest.approx(history["train/loss"].iloc[1:].mean())
    table = pd.read_csv(finished.root / "data/report/loss_by_length.csv")
    (loss,) = table[(table["length"] == 4) & (table["initialization"] == "corpus")]["loss"]
    assert loss < math.log(260) + 0.5
    summary = pd.read_csv(finished.root / "data/report/summary.csv").set_index("name")
    assert loss == pytest.approx(summary.loc["len4-corpus-seed0", "test_loss"])


@DEAR
def test_an_experiment_beside_what_it_started_from(copy: Workspace) -> None:
    commit(copy)
    copy.run("dvc", "exp", "run", "-n", "slower", "-S", "train.learning_rate=1e-3")
    assert copy.params["train"]["learning_rate"] == 1e-3
    # What differs of the best one and of the params; the many metrics of rows lie below folders.
    header, *rows = [line.split(",") for line in copy.run(*SHOW, "--csv").stdout.splitlines()]
    assert sorted(header[4:]) == ["best.loss", "best.validation_loss", "train.learning_rate"]
    summary = pd.read_csv(copy.root / "data/report/summary.csv")
    best = summary[summary["is_best"]].iloc[0]
    of_experiment = {row[0]: dict(zip(header, row, strict=True)) for row in rows}["slower"]
    assert float(of_experiment["best.loss"]) == round(best["test_loss"], 4)
    table = copy.run("env", "COLUMNS=120", *SHOW, "--no-pager").stdout
    assert "best.loss" in table
    assert max(map(len, table.splitlines())) <= 120

    title, *lines = copy.run("dvc", "metrics", "diff").stdout.rstrip("\n").splitlines()
    assert title.split() == ["Path", "Metric", "HEAD", "workspace", "Change"]
    changed = [tuple(line.split()[:2]) for line in lines]
    assert {path for path, _ in changed} == {f"data/dvc/{name}.json" for name in VARIANTS}
    assert max(map(len, lines)) <= 120

    pictures = drawn(copy, "diff", "HEAD", "workspace")
    assert len(pictures) == 3
    for svg in pictures.values():
        assert {"HEAD", "workspace"} <= set(words(svg))


def test_the_best_prefix_is_an_artifact(copy: Workspace, tmp_path: Path) -> None:
    commit(copy)
    version = "best-prefix@v0.1.0"
    copy.run("git", *IDENTITY, "tag", "-am", "x", version)
    get = ("dvc", "artifacts", "get", str(copy.root), "best-prefix")
    copy.run(*get, "--out", str(tmp_path / "latest"))
    copy.run(*get, "--rev", "v0.1.0", "--out", str(tmp_path / "named"))
    summary = pd.read_csv(copy.root / "data/report/summary.csv")
    (name,) = summary.loc[summary["is_best"], "name"]
    trained = KVPrefix.load(copy.root / "data/train" / name / "prefix.safetensors")
    for folder in ("latest", "named"):
        gotten = read_adapter(tmp_path / folder)
        for found, expected in ((gotten.keys, trained.keys), (gotten.values, trained.values)):
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
