"""A metric and a plot are a row of a table each; everything else takes them from there."""

import csv
import json
import shutil
import subprocess
import sys

import pytest

from pipeline.config.evaluate import EvaluateParams
from pipeline.config.report import ReportParams
from pipeline.evaluation.metrics import kept_of, kept_of_labels
from pipeline.metrics.metric import OfLabels, OfTarget, OfTeacher, OfText
from pipeline.metrics.table import METRICS, names_of
from tests.conftest import ROOT, Workspace
from tests.sweep_runs import VARIANTS, runs
from tests.test_report import Page


def test_the_schema_lists_the_table() -> None:
    of_text = EvaluateParams.model_json_schema()["properties"]["metrics"]["items"]["enum"]
    assert of_text == list(names_of(OfText))
    assert EvaluateParams(splits=["test"]).metrics == of_text
    sortable = ReportParams.model_json_schema()["properties"]["sort_by"]["enum"]
    assert sortable == list(METRICS)
    others = [*names_of(OfTarget), *names_of(OfTeacher), *names_of(OfLabels)]
    assert sorted(METRICS) == sorted([*of_text, *others])
    taught = EvaluateParams(splits=["test"], metrics=["chrf"], teacher="data/teachers/rules")
    assert taught.measured(False) == ["loss", "perplexity", "kl", "chrf"]


def test_the_schema_needs_no_library_of_scores() -> None:
    code = "import pipeline.config, sys; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    heavy = {"torch", "numpy", "pandas", "sacrebleu", "rouge_score", "altair"}
    assert not heavy & set(loaded.split())


def test_every_metric_has_a_score_and_titles_of_its_own() -> None:
    line = {"loss": 3.0, "target_tokens": 2, "kl": 1.0, "taught_tokens": 2}
    line |= kept_of("a cat", ["a cat sat"], names_of(OfText)) | kept_of_labels([0, 1], [0, 0], 3)
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.score(metric.matrix([line, line]).sum(axis=0)) >= 0
        assert metric.restates is None or metric.restates in METRICS
    for attribute in ("title", "axis"):
        assert len({getattr(metric, attribute) for metric in METRICS.values()}) == len(METRICS)


def test_metrics_are_shown_as_their_field_writes_them() -> None:
    shown = {name: (METRICS[name].shown(0.25), METRICS[name].difference(0.25)) for name in METRICS}
    assert shown["loss"] == ("0.250", "0.250 nats per target token")
    assert shown["perplexity"] == ("0.250", "0.250")
    assert shown["bleu"] == ("0.2", "0.2 points")
    assert shown["f1"] == ("25.0%", "25.0 percentage points")


@pytest.mark.real
def test_one_more_row_is_everywhere(copy: Workspace) -> None:
    copy.edit(lambda params: params["evaluate"].update(metrics=["characters", "bleu"]))
    copy.edit(lambda params: params["sweep"].update(lengths=[2]))
    copy.edit(lambda params: params["report"].update(sort_by="characters"))
    refused = copy.pipeline("check", check=False)
    assert "evaluate.metrics.0 = 'characters' should be 'exact_match'" in refused.stderr
    shutil.copy(ROOT / "tests" / "one_more_row.py", copy.root)
    copy.run("python", "-m", "one_more_row")

    folder = copy.root / "data" / "evaluate" / VARIANTS[0]
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert all(line["characters"] == len(line["prediction"]) for line in lines)
    lines = [line for line in lines if line["split"] == "test"]
    score = json.loads((folder / "metrics.json").read_text())["test"]["characters"]
    assert score == pytest.approx(sum(line["characters"] for line in lines) / len(lines))

    report = copy.root / "data" / "report"
    with (report / "summary.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    scores = [float(row["validation_characters"]) for row in rows.values()]
    assert scores == sorted(scores, reverse=True)
    assert float(rows[VARIANTS[0]]["test_characters"]) == pytest.approx(score)
    assert rows[VARIANTS[0]]["test_characters_p_value"]
    assert "p (test length of texts)" in (report / "summary.md").read_text()

    pictures = {path.name for path in (report / "plots").iterdir()}
    new = {f"test_characters{suffix}.png" for suffix in ("", "_by_stored_bytes", "_bars")}
    assert new <= pictures
    page = Page((report / "report.html").read_text())
    # All but perplexity's, which says no more than the loss.
    assert len(page.pictures) == len(pictures) - 1
    for what in ("test: length of texts against prefix length", "test: length of texts in bars"):
        assert what in page.text
    assert "Sorted by validation length of texts, best first" in page.text

    (run,) = runs(copy, f"tags.variant = '{VARIANTS[0]}' and tags.state = 'current'")
    assert run.data.metrics["test/characters"] == pytest.approx(score)
    low, high = json.loads(run.data.tags["test/characters interval"])
    assert low <= score <= high
